"""The commands for operators: what they take, what they refuse, and how they say so."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command, load_command_class
from pydantic import BaseModel, Field

from rooms_app import RoomsUnavailable, WebSocketMessage, use_ws_manager
from rooms_app.layers import channel_layer
from rooms_app.reports import connections_of_sync
from tests.clients import clients
from tests.conftest import use_layer
from tests.live import ROOT, free_port
from tests.waiting import until, wait_until

COMMANDS = (
    *("rooms_drain", "rooms_explain", "rooms_kick", "rooms_list", "rooms_listen"),
    *("rooms_messages", "rooms_send"),
)


class Author(BaseModel):
    name: str
    age: int = 0


class Parcel(WebSocketMessage):
    """What the tests send.

    More than the first line is not shown.
    """

    MESSAGE_ID = "tests.parcel"
    RETAIN = True
    author: Author
    number: int = Field(default=3, ge=1, le=9)
    title: str = ""
    tags: list[str] | None = None


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as `manage.py` does; its exit status, and what it printed."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        status: Any = 0
        try:
            load_command_class("rooms_app", name).run_from_argv(["manage.py", name, *arguments])
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def rooms_layer(request: pytest.FixtureRequest, settings: object) -> None:
    use_layer("rooms", request, settings)


def printed(*arguments: str) -> Any:
    """What a command prints as JSON."""
    out = io.StringIO()
    call_command(*arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_ends_with_an_example_that_the_command_takes(name: str, run: Run) -> None:
    status, out, _ = run(name, "--help")
    example = " ".join(out.split()).rpartition(f"Example: python manage.py {name} ")[2]
    assert (status, bool(example)) == (0, True)
    load_command_class("rooms_app", name).create_parser("manage.py", name).parse_args(shlex.split(example))


SEND = ("rooms_send", "tests.parcel")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SEND, "{}"), "one of the arguments --room --user --broadcast is required"),
        ((*SEND, "--room", "a", "--broadcast"), "not allowed with argument"),
        ((*SEND, "--room", ""), "A room name is"),
        (
            ("rooms_send", "tests.nothing", "--room", "a"),
            "No message class has the MESSAGE_ID 'tests.nothing'. Known: ",
        ),
        ((*SEND, "--room", "a"), "No valid tests.parcel: author: Field required."),
        (
            (*SEND, '{"author": {"name": "Ann", "age": "old"}}', "--room", "a"),
            "author.age: Input should be a valid int",
        ),
        ((*SEND, "{", "--room", "a"), "PAYLOAD is no JSON: "),
        ((*SEND, "[]", "--room", "a"), "the payload: Input should be an object"),
        ((*SEND, "[]", "--room", "a", "--set", "number=1"), "--set number: there is no JSON object"),
        ((*SEND, "--room", "a", "--set", "number"), "'number' is not of the form FIELD=VALUE"),
        ((*SEND, "--room", "a", "--set", "author..name=1"), "is not of the form FIELD=VALUE"),
        ((*SEND, "--room", "a", "--once", "x" * 256), "1 to 255 characters"),
        (("rooms_list", "--limit", "0"), "'0' is no whole number from 1 on"),
        (("rooms_listen",), "the following arguments are required: ROOM"),
        (("rooms_listen", "a", "--count", "-1"), "'-1' is no whole number"),
        (("rooms_listen", "a", "--seconds", "soon"), "'soon' is no number of seconds"),
        (("rooms_listen", "a", "--since", "yesterday"), "'yesterday' is no id of a frame"),
        (("rooms_kick",), "Say whom: "),
        (("rooms_kick", "--room", "a"), "Say whom: "),
        (("rooms_kick", "--user", "ann", "--room", "a", "--all"), "Say whom: "),
        (("rooms_messages", "tests.nothing"), "No message class has the MESSAGE_ID"),
        (("rooms_explain", "ann"), "the following arguments are required: ROOM"),
    ],
)
@pytest.mark.usefixtures("rooms_layer")
def test_what_cannot_be_meant_ends_with_2_and_says_why(arguments: tuple[str, ...], said: str, run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, said in " ".join(err.split()), out, "Traceback" in err) == (2, True, "", False), err


NEED_REDIS = [
    (*SEND, "--room", "a", "--set", "author.name=Ann"),
    ("rooms_list",),
    ("rooms_listen", "a"),
    ("rooms_kick", "--room", "a", "--all"),
]


CHAT = (*("user_id=7", "username=Ann", "content=hi"), "timestamp=2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "arguments",
    [
        ("rooms_send", "chat.message", "--room=a", *(f"--set={field}" for field in CHAT)),
        *NEED_REDIS[1:],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_redis_that_is_away_ends_it_with_1_and_a_sentence(arguments: tuple[str, ...]) -> None:
    """In a process of its own: one that has met an outage fails at once for a while."""
    env = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "DJANGO_SETTINGS_MODULE": "project.settings"}
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **env, "DJANGO_SECRET_KEY": "only-for-tests"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False), done.stderr
    assert "CommandError: The channel layer " in done.stderr
    assert "Connection refused" in done.stderr or "Connect call failed" in done.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rooms_layer")
def test_a_user_whom_redis_is_away_for_is_no_traceback_either(run: Run, settings: Any) -> None:
    """Whether it is asked, or has not answered a moment ago; nobody is told to go, and it says so."""
    ann = get_user_model().objects.create_user("ann")
    here = settings.CHANNEL_LAYERS
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", f"redis://127.0.0.1:{free_port()}")}
    asked = run("rooms_kick", "--user=ann")
    not_asked = run("rooms_explain", "ann", "a"), run("rooms_kick", "--user=ann", "--room=a")
    assert (asked[0], asked[1], "Traceback" in asked[2]) == (1, "", False)
    assert "CommandError: The channel layer did not confirm: ConnectionError" in asked[2]
    for status, out, err in not_asked:
        assert (status, out, "Traceback" in err) == (1, "", False)
        assert "CommandError: Not tried: the channel layer failed a moment ago." in err
    settings.CHANNEL_LAYERS = here

    def is_back() -> bool:
        with contextlib.suppress(RoomsUnavailable):
            return connections_of_sync(ann) == []
        return False

    # So that the tests after this one meet no outage.
    wait_until(is_back, what="the end of the outage")


@pytest.mark.parametrize("arguments", NEED_REDIS, ids=lambda arguments: arguments[0])
def test_the_in_memory_layer_is_refused_rather_than_sent_to_nobody(arguments: tuple[str, ...], run: Run) -> None:
    status, _, err = run(*arguments)
    assert (status, "The in-memory channel layer reaches no other process" in err) == (1, True)


@pytest.mark.parametrize("arguments", [("rooms_list",), (*NEED_REDIS[0], "--once", "k")], ids=["list", "once"])
def test_what_needs_history_says_so_on_another_layer(
    arguments: tuple[str, ...], run: Run, request: pytest.FixtureRequest, settings: object
) -> None:
    """`--once` would send again, and each process's own counts would pass for all."""
    use_layer("pubsub", request, settings)
    status, out, err = run(*arguments)
    assert (status, out, "channel layer with history" in err) == (1, "", True)


class TestSend:
    """`rooms_send`, as a client in the room gets it."""

    pytestmark = pytest.mark.usefixtures("rooms_layer")

    @pytest.mark.parametrize(
        ("payload", "stdin", "expected"),
        [
            (['{"author": {"name": "Ann", "age": 4}}'], "", {"author": {"name": "Ann", "age": 4}}),
            (["-"], '{"author": {"name": "Ann"}, "number": 5}', {"number": 5}),
            (['{"author": {"name": "Ann"}}', "--set", "author.age=7"], "", {"author": {"name": "Ann", "age": 7}}),
            (["--set", "author.name=Ann", "--set", 'tags=["a", "b"]'], "", {"tags": ["a", "b"]}),
            (
                ["--set", "author.name=7", "--set", "title=true"],
                "",
                {"author": {"name": "7", "age": 0}, "title": "true"},
            ),
            (["--set", "author.name=a=b", "--set", "title="], "", {"author": {"name": "a=b", "age": 0}, "title": ""}),
        ],
        ids=["json", "stdin", "set over json", "set alone", "text that looks like json", "equals and empty"],
    )
    async def test_the_fields_come_as_json_or_one_by_one(
        self, payload: list[str], stdin: str, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        async with clients("/rooms/a") as (member,):
            answer = await asyncio.to_thread(printed, *SEND, *payload, "--room=a", "--room=b")
            message = (await member.frame())["message"]
        assert {**message, **expected} == message
        assert [room["room"] for room in answer["rooms"]] == ["a", "b"]
        assert answer["outcome"] == "sent"

    async def test_one_key_sends_once(self) -> None:
        async with clients("/rooms/a") as (member,):
            for number in ("1", "2"):
                fields = ("--set", "author.name=Ann", "--set", f"number={number}")
                await asyncio.to_thread(printed, *SEND, "--room=a", *fields, "--once", "k")
            assert (await member.frame())["message"]["number"] == 1
            assert await member.silent()

    async def test_a_broadcast_reaches_who_is_in_no_such_room(self) -> None:
        async with clients("/rooms/elsewhere") as (member,):
            await asyncio.to_thread(printed, *SEND, "--broadcast", "--set", "author.name=Ann")
            assert (await member.frame())["room"] == "*"

    def test_what_rooms_app_itself_sends_is_not_for_operators(self) -> None:
        with pytest.raises(CommandError, match="is for rooms_app itself to send"):
            call_command("rooms_send", "presence.left", '{"members": []}', "--room=a")

    @pytest.mark.django_db
    def test_a_user_is_named_by_her_name_or_her_key(self) -> None:
        ann = get_user_model().objects.create_user("ann")
        users = ("--user=ann", f"--user=pk:{ann.pk}")
        answer = printed(*SEND, *users, "--set", "author.name=Ann")
        assert [room["room"] for room in answer["rooms"]] == [f"user-{ann.pk}"]


@pytest.mark.parametrize(
    ("user", "status", "said"),
    [
        ("bob", 1, "No user has the username 'bob'; by primary key, write pk:<pk>."),
        ("pk:99999", 1, "No user has the pk '99999'."),
        ("pk:bob", 2, "'bob' is no pk of a user."),
    ],
)
@pytest.mark.parametrize(
    "command", [("rooms_kick", "--user={}"), ("rooms_explain", "{}", "a")], ids=["kick", "explain"]
)
@pytest.mark.django_db
@pytest.mark.usefixtures("rooms_layer")
def test_a_user_whom_nobody_knows_is_named(command: tuple[str, ...], user: str, status: int, said: str) -> None:
    with pytest.raises(CommandError) as raised:
        call_command(*(argument.format(user) for argument in command))
    assert (raised.value.returncode, str(raised.value)) == (status, said)


@pytest.mark.django_db
@pytest.mark.usefixtures("rooms_layer")
def test_kicking_who_is_not_there_ends_with_1() -> None:
    get_user_model().objects.create_user("ann")
    for whom in (["--user=ann"], ["--user=ann", "--room=a"], ["--room=a", "--all"]):
        with pytest.raises(CommandError, match="Nobody to close") as raised:
            call_command("rooms_kick", *whom)
        assert raised.value.returncode == 1


class TestMessages:
    """`rooms_messages`, which needs no Redis."""

    def test_each_type_is_shown_with_its_fields_and_limits(self, run: Run) -> None:
        status, out, _ = run("rooms_messages", "tests.parcel")
        assert (status, out.splitlines()) == (
            0,
            [
                "tests.parcel  (tests.test_commands.Parcel, retained)",
                "    What the tests send.",
                "    author  Author, required",
                "    number  integer, minimum 1, maximum 9, default 3",
                "    title   string, default ''",
                "    tags    array of string | null, default None",
            ],
        )

    def test_with_json_each_has_its_schema(self) -> None:
        listed = {each["MESSAGE_ID"]: each for each in printed("rooms_messages")}
        assert {"chat.message", "tests.parcel"} <= set(listed)
        parcel = listed["tests.parcel"]
        assert parcel["schema"] == Parcel.model_json_schema()
        assert (parcel["description"], parcel["retain"], parcel["volatile"]) == ("What the tests send.", True, False)

    def test_each_is_shown_with_how_it_is_delivered(self, run: Run) -> None:
        """Where that is not as by default."""
        heads = {line.split()[0]: line for line in run("rooms_messages")[1].splitlines() if not line.startswith(" ")}
        assert heads["tests.note"].endswith("(tests.app.messages.Note)")
        assert heads["tests.kept"].endswith("(tests.app.messages.KeptNote, outbox)")
        outbox = {each["MESSAGE_ID"]: each["outbox"] for each in printed("rooms_messages")}
        assert (outbox["tests.note"], outbox["tests.kept"]) == (False, True)


@contextlib.asynccontextmanager
async def listening(*arguments: str) -> AsyncIterator[tuple[io.StringIO, io.StringIO, asyncio.Future[Any]]]:
    """`rooms_listen` in a thread, once it listens; it has to end by itself."""
    out, err = io.StringIO(), io.StringIO()
    ended = asyncio.ensure_future(asyncio.to_thread(call_command, "rooms_listen", *arguments, stdout=out, stderr=err))
    await until(lambda: "Listening" in err.getvalue() or ended.done(), what="the command to listen")
    yield out, err, ended
    await ended


@pytest.mark.usefixtures("rooms_layer")
class TestListen:
    """`rooms_listen` beside the test's own clients."""

    async def test_it_prints_what_a_client_gets_until_it_is_enough(self) -> None:
        """Frame by frame, reserved rooms too, and not one more than asked for."""
        async with clients("/rooms/a") as (member,):
            async with listening("a", "user-7", "--count=3") as (out, err, _):
                assert err.getvalue() == "Listening to 2 rooms; Ctrl-C ends it.\n"
                await Parcel(author=Author(name="ä")).send("a")
                await Parcel(author=Author(name="Bob")).send("user-7")
                await Parcel(author=Author(name="Cleo")).broadcast()
                await Parcel(author=Author(name="Dora")).send("a")
            lines = [json.loads(line) for line in out.getvalue().splitlines()]
            assert [line["message"]["author"]["name"] for line in lines] == ["ä", "Bob", "Cleo"]
            assert lines[0] == await member.frame()

    async def test_since_a_frame_it_prints_what_came_after(self) -> None:
        async with clients("/rooms/a?since=latest") as (member,):
            await member.frame()
            for name in ("Ann", "Bob", "Cleo", "Dora"):
                await Parcel(author=Author(name=name)).send("a")
            since = (await member.frame())["id"]
        async with listening("a", "--since", since, "--count=2") as (out, err, _):
            pass
        assert [json.loads(line)["message"]["author"]["name"] for line in out.getvalue().splitlines()] == [
            "Bob",
            "Cleo",
        ]
        async with listening("a", "--since", since, "--seconds=0.1", "--json") as (out, err, _):
            pass
        assert [json.loads(line)["MESSAGE_ID"] for line in out.getvalue().splitlines()][3:] == ["sys.resumed"]
        async with listening("a", "--since", "0123-1", "--seconds=0.1") as (_, err, _):
            pass
        assert "Messages may be missing at " in err.getvalue()

    async def test_whatever_is_broadcast_is_one_line_of_json(self) -> None:
        raw = [b"\xff", b"a\nb", b'{"a":\n1}', b'{"plain":1}']
        async with listening("a", f"--count={len(raw)}") as (out, _, _):
            for each in raw:
                await use_ws_manager().broadcast(each)
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        assert lines == [{"bytes": "/w=="}, {"text": "a\nb"}, {"a": 1}, {"plain": 1}]

    async def test_who_reads_no_longer_ends_it_quietly(self) -> None:
        """`rooms_listen a | head -1`."""

        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        listener = asyncio.ensure_future(
            asyncio.to_thread(call_command, "rooms_listen", "a", stdout=Gone(), stderr=(err := io.StringIO()))
        )
        await until(lambda: "Listening" in err.getvalue(), what="the command to listen")
        await Parcel(author=Author(name="Ann")).send("a")
        async with asyncio.timeout(10):
            await listener

    async def test_a_connection_that_is_closed_ends_it_with_1(self) -> None:
        with pytest.raises(CommandError, match="The connection was closed: 4503"):
            async with listening("a"):
                await use_ws_manager().close_room("a")
