"""What the demo's pages get; rooms_app finds it here, as in every installed app."""

from datetime import datetime

from rooms_app import RoomName, WebSocketMessage
from rooms_app.bus import BusMessage


class ChatMessage(WebSocketMessage):
    """What somebody said in a room, as each of the room's sockets gets it."""

    MESSAGE_ID = "chat.message"

    user_id: str
    username: str
    content: str
    #: When the server took the message; aware, so that the browser can show it in the reader's own time.
    timestamp: datetime


class ReportOrder(BusMessage):
    """A report for the worker to make."""

    MESSAGE_TOPIC = "report.order"

    report_id: str
    #: Where its progress is shown: its visitor's own room.
    room: RoomName


class ReportProgress(WebSocketMessage):
    """How far a report is."""

    MESSAGE_ID = "report.progress"
    VOLATILE = True

    report_id: str
    done: int
    total: int


class ReportFinished(WebSocketMessage):
    """A report is done."""

    MESSAGE_ID = "report.finished"
    # A page that is just being loaded finds the last one.
    RETAIN = True

    report_id: str
    total: int
    #: The process id of the worker that made it.
    worker: int
    finished_at: datetime
