"""The health check that the prober asks; everything else that the benchmark opens is a WebSocket."""

from django.urls import path

from rooms_app import health

urlpatterns = [path("health/live", health.live)]
