"""The demo's URLs. Room names are any text, slashes included: hence `path`."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from project import views
from rooms_app import health

urlpatterns = [
    path("", views.page, name="chat"),
    # The admin's pages name none, and a browser asks for this one.
    path("favicon.ico", RedirectView.as_view(url=static("project/icon.svg"))),
    path("chat/<path:room_id>/message", views.SendMessage.as_view(), name="send-message"),
    path("report", views.OrderReport.as_view(), name="order-report"),
    path("health/live", health.live, name="health-live"),
    path("health/ready", health.ready, name="health-ready"),
    path("admin/", admin.site.urls),
]
