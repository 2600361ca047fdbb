"""The demo, and a room whose guests say in the URL who they are: `/presence/<room>/<name>`."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from channels.routing import ProtocolTypeRouter  # noqa: I001

from project.asgi import http_application
from django.urls import path

from rooms_app import RoomConsumer
from rooms_app.presence import Member
from rooms_app.routing import websocket_application


class Guests(RoomConsumer):
    """Lets everybody in, and believes the names."""

    tracks_presence = True

    async def get_rooms(self) -> list[str]:
        return [self.kwargs["room"]]

    async def can_join(self, room: str) -> bool:
        return True

    async def presence_member(self) -> Member | None:
        return Member(id=self.kwargs["name"], name=self.kwargs["name"])


application = ProtocolTypeRouter(
    {
        "http": http_application,
        "websocket": websocket_application([path("presence/<str:room>/<str:name>", Guests.as_asgi())]),
    }
)
