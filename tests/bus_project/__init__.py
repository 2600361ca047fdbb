"""A small project with a Celery worker, for the tests of the bus."""
