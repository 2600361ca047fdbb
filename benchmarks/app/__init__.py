"""The Django project that the benchmark serves: one chat on rooms_app, the same chat on stock Channels."""
