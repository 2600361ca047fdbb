"""How frames reach a client: an outlet per kind of ASGI server, found when the socket connects.

An outlet that knows its server writes ready frames to the server's transport; the one for all others steps
the ASGI `send`. Each says when the server holds enough for this client, and when it has room again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rooms_app.servers.asgi import AsgiOutlet
from rooms_app.servers.daphne import DaphneOutlet
from rooms_app.servers.frames import Batch, batches
from rooms_app.servers.outlet import Outlet
from rooms_app.servers.shutdown import before_shutdown
from rooms_app.servers.uvicorn import UvicornOutlet

__all__ = ["SERVER_SEND", "Batch", "Outlet", "batches", "before_shutdown", "find_outlet"]

#: Where `websocket_application` keeps the server's own `send`, which the middlewares below it wrap.
SERVER_SEND = "rooms_app.send"


def find_outlet(scope: dict[str, Any], send: Callable[[Any], Any]) -> Outlet:
    """The outlet for a connection: its server's own where one fits, else the portable one.

    Frames pass by the middlewares that wrap `send` below `websocket_application`, on every path.
    """
    server_send = scope.get(SERVER_SEND, send)
    return UvicornOutlet.fit(server_send) or DaphneOutlet.fit(server_send) or AsgiOutlet(server_send)
