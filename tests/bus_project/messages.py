"""What the tests publish, and what handlers send."""

from rooms_app import WebSocketMessage
from rooms_app.bus import BusMessage


class ActivityNotification(WebSocketMessage):
    """What the browser gets."""

    MESSAGE_ID = "tests.activity"
    user_id: str
    action: str


class UserActivityMessage(BusMessage):
    """A user did something."""

    MESSAGE_TOPIC = "user.activity"
    user_id: str
    action: str


class Job(BusMessage):
    """What a test has a handler do: a name that the handlers look up."""

    MESSAGE_TOPIC = "tests.job"
    #: What it records, and sends, is found under this.
    tag: str
    todo: str = "nothing"


class AsyncJob(Job):
    """The same for an async handler."""

    MESSAGE_TOPIC = "tests.async-job"


class StoredJob(Job):
    """The same by way of the outbox."""

    MESSAGE_TOPIC = "tests.stored-job"
    OUTBOX = True


class Walk(BusMessage):
    """Have an async handler walk through a table, and wait in the middle until a key is in Redis."""

    MESSAGE_TOPIC = "tests.walk"
    tag: str


class Shared(BusMessage):
    """A message with several handlers."""

    MESSAGE_TOPIC = "tests.shared"
    tag: str


class Unhandled(BusMessage):
    """A message that nobody takes."""

    MESSAGE_TOPIC = "tests.unhandled"
