"""The README and docs/ say what the code does: names, defaults and links, and the quickstart runs as written."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from websockets.sync.client import connect

import rooms_app
from rooms_app.closing import CloseCode
from rooms_app.conf import RoomsSettings
from tests.live import ROOT, free_port
from tests.waiting import wait_until

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

DEMO = "python -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python manage.py demo"
TESTS = "python -m venv .venv && .venv/bin/pip install -r requirements-dev.txt && .venv/bin/python -m pytest"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text()


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a page's tables by their first cell, without its backticks."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            found[first.strip("`")] = others
    return found


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language on a page."""
    return [code for found, code in _FENCE.findall(page.read_text()) if found == language]


@functools.cache
def anchors(page: Path) -> set[str]:
    """What a link can name on a page: GitHub's anchors for its headings."""
    prose = _FENCE.sub("", page.read_text())
    words = [re.sub(r"[^\w\s-]", "", heading.lower()) for heading in _HEADING.findall(prose)]
    return {heading.strip().replace(" ", "-") for heading in words}


PYTHON_BLOCKS = [
    pytest.param(page, code, id=f"{name_of(page)}-{index}")
    for page in PAGES
    for index, code in enumerate(blocks(page, "python"))
]


def test_the_readme_has_the_two_commands_and_fits_on_a_screen() -> None:
    lines = README.read_text().splitlines()
    assert [line.strip() for line in lines if line.strip() in {DEMO, TESTS}] == [DEMO, TESTS]
    assert len(lines) <= 80


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_relative_link_leads_somewhere(page: Path) -> None:
    # A link's text may be wrapped, in a code block it is no link.
    prose = " ".join(_FENCE.sub("", page.read_text()).split())
    for link in _LINK.findall(prose):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {name_of(target)} has no heading #{anchor}"


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in _LINK.findall(index.read_text())}
    assert linked >= {page for page in PAGES if page not in (README, index)}


@pytest.mark.parametrize(("page", "code"), PYTHON_BLOCKS)
def test_each_python_block_compiles_and_imports_what_exists(page: Path, code: str) -> None:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(code, name_of(page), "exec", flags)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rooms_app":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                # `from rooms_app import health` is a module, imported only when asked for.
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_each_setting_is_described_with_its_default() -> None:
    described = rows(reference("settings"))
    for field in dataclasses.fields(RoomsSettings):
        assert field.name in described, f'ROOMS["{field.name}"] is not in settings.md'
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else field.default
        said = ast.literal_eval(described[field.name][0].strip("`"))
        assert said == default, f"{field.name} is {default!r}, not {said!r}"
        assert all(described[field.name]), f"{field.name} has no unit or meaning"


def test_no_setting_is_described_that_is_gone() -> None:
    table = reference("settings").partition("| Key |")[2].partition("\n\n")[0]
    described = rows(f"| Key |{table}").keys() - {"Key", "---"}
    assert described == {field.name for field in dataclasses.fields(RoomsSettings)}


def test_each_system_check_is_described() -> None:
    sources = [(ROOT / "rooms_app" / name).read_text() for name in ("checks.py", "bus/checks.py")]
    ids = set(re.findall(r'"(rooms\.[EW]\d{3})"', "".join(sources)))
    described = {name for name in rows(reference("system-checks")) if name.startswith("rooms.")}
    assert ids and described == ids


def test_each_close_code_is_described_with_what_a_client_does() -> None:
    described = rows(reference("close-codes"))
    for code in CloseCode:
        name, comes_back, when = described[str(code.value)]
        assert name == f"`{code.name}`"
        assert comes_back.startswith("no" if code.is_final else "yes"), code
        assert when


def test_each_requirement_has_a_reason() -> None:
    described = rows(reference("dependencies"))
    for file in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / file).read_text().splitlines():
            if line and not line.startswith(("#", "-r ")):
                name = Requirement(line).name
                assert described.get(name, [""])[0], f"{file}: {name} has no reason in dependencies.md"


def test_each_public_name_is_in_the_api_reference() -> None:
    named = set(re.findall(r"^\| `(\w+)", reference("api"), re.MULTILINE))
    assert named >= set(rooms_app.__all__)


# The quickstart


QUICKSTART = DOCS / "quickstart.md"
#: A file of the reader's project: its path, whether it is added to what is there, and its text.
_FILE = re.compile(r"^`([\w/.]+)`(, at its end)?:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Project:
    """The project that a reader of the quickstart has made, with the rooms_app of this checkout."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
        self.env |= {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "mysite.settings"}
        self.commands = [line for block in blocks(QUICKSTART, "console") for line in block.splitlines()]
        self.run("django-admin startproject")
        self.run("startapp")
        for name, is_added, text in _FILE.findall(QUICKSTART.read_text()):
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_text() if is_added else ""
            file.write_text(f"{before}\n{text}" if is_added else text)

    def argv(self, part: str) -> list[str]:
        """The one command of the page that has this part, run by this interpreter."""
        (line,) = [line for line in self.commands if part in line]
        program, *arguments = shlex.split(line)
        module = {"django-admin": ["-m", "django"], "daphne": ["-m", "daphne"], "python": []}
        return [sys.executable, *module[Path(program).name], *arguments]

    def run(self, part: str, *more: str) -> str:
        """What a command of the page prints; fails the test when it fails."""
        argv = [*self.argv(part), *more]
        env = dict(self.env)
        if "startproject" in argv or "startapp" in argv:
            env.pop("DJANGO_SETTINGS_MODULE")
        done = subprocess.run(
            argv, cwd=self.directory, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def serving(self, argv: list[str], url: str) -> Iterator[None]:
        """Run a server until the end of the block, from the moment it answers at the URL."""
        log = self.directory / "server.log"
        with log.open("ab") as output:
            # A group of its own, so that the autoreloader's child ends with it.
            process = subprocess.Popen(
                argv,
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(url, timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            wait_until(answers, what=url, timeout=30)
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("quickstart"))


def test_the_quickstart_makes_a_project_without_problems(project: Project) -> None:
    output = project.run("manage.py migrate", "--verbosity", "0")
    assert output == ""
    argv = [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
    done = subprocess.run(argv, cwd=project.directory, env=project.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.slow
def test_the_quickstart_s_messages_reach_browsers_on_both_servers(project: Project) -> None:
    ports = [str(free_port()), str(free_port())]
    pages = [f"http://127.0.0.1:{port}/rooms/lobby/" for port in ports]
    sockets = [f"ws://127.0.0.1:{port}/ws/rooms/lobby" for port in ports]
    runserver = [*project.argv("manage.py runserver"), ports[0]]
    daphne = [ports[1] if part == "8001" else part for part in project.argv("daphne -p")]
    project.run("manage.py migrate", "--verbosity", "0")
    with (
        project.serving(runserver, pages[0]),
        project.serving(daphne, pages[1]),
        connect(sockets[0]) as first,
        connect(sockets[1]) as second,
    ):
        answer = httpx.post(f"{pages[1]}message", json={"content": " hi "})
        assert answer.json() == {"status": "sent"}
        for socket in (first, second):
            frame = json.loads(socket.recv(timeout=5))
            assert frame.pop("id")
            assert frame == {
                "MESSAGE_ID": "chat.message",
                "message": {"username": "guest", "content": "hi"},
                "room": "chat-lobby",
            }

        assert project.run("manage.py shell").split()[-1] == "sent"
        for socket in (first, second):
            frame = json.loads(socket.recv(timeout=5))
            assert frame["message"]["content"] == "Hello from the shell"
