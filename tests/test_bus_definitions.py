"""Bus messages and handlers that can't be meant are refused where they are written, or by `manage.py check`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery

from rooms_app.bus import BusMessage, MessageOf, message_bus_controller, message_handler
from rooms_app.bus.broker import celery_app
from rooms_app.bus.checks import check_bus
from rooms_app.bus.delivery import TASK
from rooms_app.bus.handlers import HandlerRegistry, handlers
from rooms_app.bus.workers import needed_visibility, set_prefetch, set_safe_defaults, warnings_for
from rooms_app.exceptions import MessageDefinitionError, RoomsConfigurationError
from tests.bus_project.messages import Unhandled
from tests.live import ROOT

REDIS, RABBITMQ = "redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"

SET_UP = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["rooms_app", "django.contrib.auth", "django.contrib.contenttypes"])
django.setup()
import rooms_app.models
"""

WITHOUT_CELERY = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("celery", "kombu", "billiard"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
{SET_UP}
try:
    import rooms_app.bus
except ImportError as error:
    print(error)
"""

WITHOUT_APP = f"""
{SET_UP}
from rooms_app.bus.broker import celery_app
celery_app()
"""


class Parcel(BusMessage):
    """What handlers here would take."""

    MESSAGE_TOPIC = "tests.parcel"


@message_handler(Parcel, timeout=300)
def carry_slowly(message: MessageOf[Parcel]) -> None:
    """The slowest handler of all."""


@pytest.fixture
def app() -> Iterator[Celery]:
    """A team's app that has set nothing."""
    yield Celery("team", broker=REDIS, set_as_current=False)


def test_a_bus_message_needs_a_topic_of_its_own() -> None:
    """Missing, empty, and another's are errors when the class is made; an abstract class needs none."""
    with pytest.raises(MessageDefinitionError, match="needs a MESSAGE_TOPIC"):

        class Missing(BusMessage):
            pass

    with pytest.raises(MessageDefinitionError, match="needs a MESSAGE_TOPIC"):

        class Empty(BusMessage):
            MESSAGE_TOPIC = ""

    with pytest.raises(MessageDefinitionError, match=r"both have the MESSAGE_TOPIC 'tests\.parcel'"):

        class Other(BusMessage):
            MESSAGE_TOPIC = "tests.parcel"

    class Base(BusMessage, abstract=True):
        weight: int


def test_a_method_in_a_class_that_is_no_controller_is_an_error() -> None:
    """Told when the handlers have been found: until then the decorator may come."""
    before = dict(handlers._methods)

    class Forgotten:
        @message_handler(Parcel)
        def take(self, message: MessageOf[Parcel]) -> None:
            """Never called."""

    try:
        with pytest.raises(MessageDefinitionError, match="its class needs the decorator @message_bus_controller"):
            handlers.check_methods()
    finally:
        handlers._methods.clear()
        handlers._methods.update(before)


def test_a_controller_has_handlers_its_own_or_inherited() -> None:
    """One method may take several messages; a class without any is an error."""

    class Second(Parcel):
        MESSAGE_TOPIC = "tests.second-parcel"

    class Base:
        @message_handler(Parcel)
        @message_handler(Second)
        def take(self, message: MessageOf[Any]) -> None:
            """Takes both."""

    @message_bus_controller
    class Controller(Base):
        pass

    name = f"{__name__}.{Controller.__qualname__}.take"
    for topic in (Parcel.MESSAGE_TOPIC, Second.MESSAGE_TOPIC):
        found = handlers.find(topic, name)
        assert found is not None
        assert found.controller is Controller
        handlers._handlers.pop((topic, name))
    with pytest.raises(MessageDefinitionError, match="has no method with @message_handler"):

        @message_bus_controller
        class Empty:
            pass

    with pytest.raises(MessageDefinitionError, match="decorates a class"):
        message_bus_controller(lambda: None)  # type: ignore[type-var]


def test_a_subclass_of_a_controller_calls_its_own_methods() -> None:
    """Whether or not an override repeats the decorator; and two may have the same base."""
    called: list[str] = []

    class Base:
        @message_handler(Parcel)
        def take(self, message: Any) -> None:
            called.append("base")

        @message_handler(Parcel)
        def weigh(self, message: Any) -> None:
            called.append("base weighs")

    @message_bus_controller
    class First(Base):
        @message_handler(Parcel)
        def take(self, message: Any) -> None:
            called.append("first")

    @message_bus_controller
    class Second(Base):
        def take(self, message: Any) -> None:
            called.append("second")

    for controller in (First, Second):
        for method in ("take", "weigh"):
            name = f"{__name__}.{controller.__qualname__}.{method}"
            found = handlers.find(Parcel.MESSAGE_TOPIC, name)
            assert found is not None
            found.call(cast(MessageOf[Any], None))
            handlers._handlers.pop((Parcel.MESSAGE_TOPIC, name))
    assert called == ["first", "base weighs", "second", "base weighs"]


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        ((str,), {}, "takes a BusMessage class"),
        ((Parcel(),), {}, "takes a BusMessage class"),
        ((BusMessage,), {}, "has no MESSAGE_TOPIC"),
        ((Parcel,), {"timeout": 0}, "timeout"),
        ((Parcel,), {"timeout": None}, "timeout"),
    ],
)
def test_a_decorator_is_given_what_it_can_use(arguments: Any, options: Any, what: str) -> None:
    """Each error says what was wrong."""
    with pytest.raises((MessageDefinitionError, ValueError), match=what):
        message_handler(*arguments, **options)


def test_a_handler_takes_one_message() -> None:
    """Not none, and not two; and it is a function."""
    with pytest.raises(MessageDefinitionError, match=r"is called with \(message\)"):

        @message_handler(Parcel)
        def nothing() -> None:
            """Takes nothing."""

    with pytest.raises(MessageDefinitionError, match=r"is called with \(self, message\)"):

        class Controller:
            @message_handler(Parcel)
            def take(self, message: Any, more: Any) -> None:
                """Takes two."""

    with pytest.raises(MessageDefinitionError, match="decorates a function or method"):
        message_handler(Parcel)(Parcel)


def test_a_check_tells_of_messages_without_a_handler() -> None:
    """By the names that a team knows."""
    found = {warning.msg: warning for warning in check_bus(None)}
    (message,) = (text for text in found if text.startswith(f"{Unhandled.__module__}.Unhandled "))
    assert found[message].id == "rooms.W010"
    assert not any("Parcel" in text for text in found)


def test_an_error_in_the_definitions_is_told_by_the_check() -> None:
    """And raised by whoever needs the handlers."""
    registry = HandlerRegistry()
    registry._methods[test_a_handler_takes_one_message] = []
    with pytest.raises(MessageDefinitionError, match="message_bus_controller"):
        registry.discover()
    with pytest.raises(MessageDefinitionError, match="message_bus_controller"):
        registry.of("tests.parcel")


def test_without_celery_only_the_bus_is_missing() -> None:
    """And it says what to install. The tables are there."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CELERY],
        cwd=ROOT,
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "rooms_app.bus needs Celery: install the extra rooms_app[bus]."


def test_a_process_without_a_celery_app_is_told_so() -> None:
    """Celery would look for a RabbitMQ on this machine."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_APP],
        cwd=ROOT,
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert RoomsConfigurationError.__name__ in done.stderr
    assert "This process has no Celery app" in done.stderr


class TestSafeDefaults:
    """What a worker sets at its start."""

    def test_what_the_team_has_not_set_is_made_safe(self, app: Celery) -> None:
        """The broker waits for as long as the slowest handler may take. The task in Celery's docs does not count."""

        @app.task(name="team.celery.debug_task", shared=False)
        def debug_task() -> None:
            """Prints its request."""

        assert needed_visibility() >= 300 + 10 + 20
        set_safe_defaults(app)
        assert app.conf.worker_prefetch_multiplier == 1
        assert app.conf.broker_connection_retry_on_startup is True
        options = {"visibility_timeout": needed_visibility(), "unacked_restore_throttle": 1}
        assert app.conf.broker_transport_options == options
        assert warnings_for(app) == []

    def test_what_the_team_has_set_stays(self, app: Celery) -> None:
        """With a warning that names both where the broker does not wait for a handler."""
        given = {"visibility_timeout": 120, "global_keyprefix": "team:"}
        app.conf.update(
            worker_prefetch_multiplier=8, broker_connection_retry_on_startup=False, broker_transport_options=given
        )
        set_safe_defaults(app)
        assert app.conf.worker_prefetch_multiplier == 8
        assert app.conf.broker_connection_retry_on_startup is False
        assert app.conf.broker_transport_options == given
        (warning,) = warnings_for(app)
        assert "visibility_timeout of 120 s" in warning
        assert f"{__name__}.carry_slowly may take 300 s" in warning
        app.conf.broker_transport_options = {"visibility_timeout": 7_200}
        assert warnings_for(app) == []

    @pytest.mark.parametrize("is_option", [False, True], ids=["setting", "command line"])
    def test_the_broker_waits_for_all_that_a_worker_takes(self, app: Celery, is_option: bool) -> None:
        """The last of four begins when the others have ended. Other workers don't know of one's command line."""
        if not is_option:
            app.conf.worker_prefetch_multiplier = 4
        set_safe_defaults(app)
        worker = SimpleNamespace(app=app, prefetch_multiplier=5 if is_option else 4)
        set_prefetch(worker)
        taken = worker.prefetch_multiplier
        assert app.conf.broker_transport_options["visibility_timeout"] == needed_visibility(taken) > 310 * taken
        warnings = warnings_for(app, prefetch=taken)
        assert ["set worker_prefetch_multiplier = 5 for all" in warning for warning in warnings] == [True] * is_option

    def test_no_time_is_enough_for_any_number(self, app: Celery) -> None:
        app.conf.worker_prefetch_multiplier = 0
        set_safe_defaults(app)
        assert app.conf.broker_transport_options == {}
        (warning,) = warnings_for(app)
        assert "worker_prefetch_multiplier should be 1" in warning

    def test_a_pool_of_greenlets_is_warned_of(self, app: Celery) -> None:
        """Whatever the broker; nothing is said of the others."""
        set_safe_defaults(app)
        (warning,) = warnings_for(app, pool="celery.concurrency.gevent")
        assert "prefork, threads or solo" in warning
        assert warnings_for(app, pool="celery.concurrency.prefork") == []

    def test_other_tasks_of_the_team_keep_celerys_hour(self, app: Celery) -> None:
        """They share the broker, and what takes longer than it waits runs twice: it is said instead."""

        @app.task(name="team.report", shared=False)
        def report() -> None:
            """Takes its time."""

        set_safe_defaults(app)
        assert app.conf.broker_transport_options == {}
        (warning,) = warnings_for(app)
        assert "stays Celery's hour" in warning
        assert f"{needed_visibility():g}" in warning

    def test_rabbitmq_needs_no_visibility_timeout(self) -> None:
        """It would refuse to connect with one."""
        app = Celery("team", broker=RABBITMQ, set_as_current=False)
        set_safe_defaults(app)
        assert app.conf.broker_transport_options == {}
        assert warnings_for(app) == []


def test_the_task_is_told_done_only_when_it_is() -> None:
    """And comes back from a process that was killed."""
    from rooms_app.tasks import handle

    assert celery_app().tasks[TASK].name == handle.name == "rooms.handle"
    assert handle.acks_late
    assert handle.reject_on_worker_lost
    assert handle.ignore_result
    assert not handle.acks_on_timeout
