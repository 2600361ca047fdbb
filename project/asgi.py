"""What daphne and uvicorn serve: pages, their static files, and the chat's WebSocket."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
# First: it loads the apps, and what is imported below may need their models.
http_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

from project.endpoints import chat_endpoint  # noqa: E402
from rooms_app.routing import websocket_application  # noqa: E402

application = ProtocolTypeRouter(
    {
        # By itself only `runserver` serves static files; this way the page looks right on any server.
        "http": ASGIStaticFilesHandler(http_application),
        "websocket": websocket_application([chat_endpoint.path]),
    }
)
