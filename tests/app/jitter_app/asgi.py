"""The application of a jitter server: `/rooms/<room>,<room>` is open to everyone. JITTER_SABOTAGE breaks it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.app.jitter_app.settings")
http_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.urls import path  # noqa: E402

from rooms_app import RoomConsumer  # noqa: E402
from rooms_app.routing import websocket_application  # noqa: E402
from tests.app.jitter_app import sabotage  # noqa: E402

sabotage.commit(os.environ.get("JITTER_SABOTAGE", ""))


class OpenRooms(RoomConsumer):
    """Lets everybody into the rooms named in the URL."""

    async def get_rooms(self) -> list[str]:
        return self.kwargs["rooms"].split(",")

    async def can_join(self, room: str) -> bool:
        return True


application = ProtocolTypeRouter(
    {
        "http": http_application,
        "websocket": websocket_application([path("rooms/<str:rooms>", OpenRooms.as_asgi())]),
    }
)
