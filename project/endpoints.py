"""The demo's one WebSocket: whoever opens `/ws/<room>` hears what is said in that room, and of her own report."""

from project.visitors import guest_room, is_guest_room
from rooms_app import CloseCode, Refused, RoomSocket, use_ws_manager, websocket_endpoint


@websocket_endpoint("ws/<path:room_id>")
async def chat_endpoint(websocket: RoomSocket, room_id: str) -> None:
    """Let anybody in, guests too; `join` itself refuses the rooms that are reserved for one user."""
    if is_guest_room(room_id):
        raise Refused(CloseCode.FORBIDDEN_ROOM)
    ws_manager = use_ws_manager()
    await ws_manager.add_websocket(websocket)
    own_room = guest_room(websocket)
    # In one call, so that a page that comes back gets what it missed in both.
    await ws_manager.join([room_id] if own_room is None else [room_id, own_room], websocket)
    # Join before accepting: what is sent in the very moment the browser's `onopen` fires is not missed.
    await websocket.accept()
    await websocket.wait_closed()  # sockets go one way; what a client has to say it sends by POST
