"""The chat on rooms_app, as its quickstart writes it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.app.settings")
http_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.urls import path  # noqa: E402

from rooms_app import RoomConsumer  # noqa: E402
from rooms_app.routing import websocket_application  # noqa: E402


class BenchConsumer(RoomConsumer):
    """Lets everyone into the room of the path."""

    async def get_rooms(self) -> list[str]:
        return [self.kwargs["room"]]

    async def can_join(self, room: str) -> bool:
        return True


application = ProtocolTypeRouter(
    {
        "http": http_application,
        "websocket": websocket_application([path("ws/<str:room>/", BenchConsumer.as_asgi())]),
    }
)
