"""The demo's one WebSocket: whoever opens `/ws/<room>` hears what is said in that room."""

from rooms_app import RoomSocket, use_ws_manager, websocket_endpoint


@websocket_endpoint("ws/<path:room_id>")
async def chat_endpoint(websocket: RoomSocket, room_id: str) -> None:
    """Let anybody in, guests too; `join` itself refuses the rooms that are reserved for one user."""
    ws_manager = use_ws_manager()
    await ws_manager.add_websocket(websocket)
    await ws_manager.join([room_id], websocket)
    # Join before accepting: what is sent in the very moment the browser's `onopen` fires is not missed.
    await websocket.accept()
    await websocket.wait_closed()  # sockets go one way; what a client has to say it sends by POST
