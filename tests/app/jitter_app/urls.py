"""The one page of a jitter server, which says that it is up."""

from django.urls import path

from rooms_app import health

urlpatterns = [path("health/live", health.live)]
