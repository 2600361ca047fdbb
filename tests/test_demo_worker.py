"""The demo's report: ordered in a browser, made by a Celery worker, and shown as it grows to its visitor alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.test import Client
from selenium.webdriver.common.keys import Keys
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from project import worker
from project.views import NoReports
from rooms_app.embedded import broker_url
from tests import test_demo_browser
from tests.live import DemoServers, Process
from tests.test_demo_browser import LOW_CONTRAST, Window
from tests.waiting import wait_until

new_window = test_demo_browser.new_window

PASSWORD = "correct horse battery staple"
CREATE_ANN = f"""
from django.contrib.auth.models import User
User.objects.create_superuser("ann", password={PASSWORD!r})
"""

#: Notes each value that the progress bar is given.
NOTE_VALUES = """
const bar = document.getElementById("work-bar");
window.values = [];
new MutationObserver(() => bar.hasAttribute("value") && values.push(bar.value)).observe(bar, {attributes: true});
"""


class ReportPage(Window):
    """A window whose tabs are one visitor's."""

    def at(self, tab: str) -> ReportPage:
        """It, with this tab in front."""
        self.driver.switch_to.window(tab)
        return self

    @property
    def state(self) -> str | None:
        return self.driver.find_element("id", "work").get_attribute("data-state")

    @property
    def is_disabled(self) -> bool:
        return self.driver.find_element("css selector", "#work button").get_attribute("aria-disabled") == "true"

    @property
    def step(self) -> str:
        return self.driver.find_element("css selector", "#work .step").text

    def press(self) -> None:
        self.driver.find_element("css selector", "#work button").click()

    def press_again(self) -> None:
        """By the keyboard, whose focus must still be there."""
        button = self.driver.switch_to.active_element
        assert button.text == "Make a report"
        button.send_keys(Keys.ENTER)

    def wait_for_state(self, state: str) -> None:
        wait_until(lambda: self.state == state, what=f"the report {state!r}", timeout=15)


@pytest.fixture(scope="module")
def celery(demo_servers: DemoServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The demo's worker, beside its servers; a test starts and stops it as it likes."""
    env = {**os.environ, **demo_servers.env}
    process = Process(worker.command(), log=tmp_path_factory.mktemp("worker") / "worker.log", env=env)
    yield process
    process.kill()  # not `stop`: then it would finish a report first


def start(celery: Process) -> None:
    if celery.process is None or celery.process.poll() is not None:
        celery.spawn()


@contextmanager
def guest(url: str) -> Iterator[httpx.Client]:
    """A new visitor, as a browser that has opened the page."""
    with httpx.Client(base_url=url) as client:
        client.get("/").raise_for_status()
        yield client


def listen(visitor: httpx.Client, room: str = "lobby", *, cookie: str | None = None) -> ClientConnection:
    """Her WebSocket."""
    url = str(visitor.base_url).replace("http", "ws").rstrip("/")
    return connect(f"{url}/ws/{room}", additional_headers={"Cookie": f"guest={cookie or visitor.cookies['guest']}"})


def next_of(socket: ClientConnection, message_id: str) -> dict[str, Any]:
    """The next message of a type, as its envelope."""
    while True:
        frame = json.loads(socket.recv(timeout=15))
        if frame["MESSAGE_ID"] == message_id:
            return dict(frame)


@pytest.mark.browser
def test_a_report_is_seen_to_grow_in_all_tabs_of_its_visitor(
    new_window: Callable[[], Window], demo_servers: DemoServers, celery: Process, tmp_path: Path
) -> None:
    """Ordered while no worker runs: the page says so, and the report is made once one does."""
    celery.stop()
    page = ReportPage(new_window().driver)
    look = Screenshots(page, tmp_path)
    page.open(demo_servers.urls[0], "reports")
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    second = page.driver.current_window_handle
    page.open(demo_servers.urls[1], "another room")
    page.driver.execute_script(NOTE_VALUES)
    page.at(first).driver.execute_script(NOTE_VALUES)
    look("idle")

    page.press()
    page.press_again()
    page.wait_for_state("making")
    assert page.is_disabled and page.text("work-status") == "Your report is being made, one at a time."
    assert page.step == "Waiting for the worker"
    page.wait_for_state("silent")
    assert page.text("work-status").endswith("Your report will be made as soon as it does.") and not page.is_disabled
    look("silent")

    start(celery)
    wait_until(lambda: page.step.startswith("Step "), what="progress")
    assert page.is_disabled
    look("making")
    page.at(second).wait_for_state("making")
    page.at(first).driver.refresh()
    # Nothing is asked for: the next message that comes tells all.
    page.wait_for_state("making")
    assert int(page.step.split()[1]) < 20
    page.wait_for_state("idle")
    assert page.text("work-status").startswith("Your report is done") and not page.is_disabled
    assert str(celery.pid) in page.text("work-status")
    look("done")
    page.at(second).wait_for_state("idle")
    values = page.driver.execute_script("return values")
    assert len(set(values)) >= 3 and values == sorted(values) and values[-1] == 20
    page.driver.refresh()
    page.wait_for_state("idle")
    # Kept for those who join later.
    assert page.text("work-status").startswith("Your last report")
    page.press()
    wait_until(lambda: page.step.startswith("Step "), what="the next report")
    assert page.console_errors() == page.at(first).console_errors() == []


class Screenshots:
    """Shows a page in light and dark, wide and narrow; in $ROOMS_SCREENSHOTS for whoever wants to look too."""

    def __init__(self, page: ReportPage, directory: Path) -> None:
        self._page = page
        self._directory = Path(os.environ.get("ROOMS_SCREENSHOTS") or directory)
        self._directory.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str) -> None:
        """Each text can be read, and nothing is too wide."""
        for scheme, width, height in (("light", 1280, 800), ("dark", 360, 720)):
            self._page.set_scheme(scheme)
            self._page.set_size(width, height)
            self._page.driver.save_screenshot(str(self._directory / f"report-{name}-{scheme}-{width}.png"))
            widths = "return [innerWidth, document.documentElement.scrollWidth]"
            assert self._page.driver.execute_script(widths) == [width, width]
            assert self._page.driver.execute_script(LOW_CONTRAST) == []


def test_two_orders_at_once_are_one_report(demo_servers: DemoServers) -> None:
    """On two servers too, as with a double click, or a click in each of two tabs."""
    with guest(demo_servers.urls[0]) as visitor, guest(demo_servers.urls[0]) as other:
        first = visitor.post("/report")
        again = httpx.post(f"{demo_servers.urls[1]}/report", headers={"Cookie": f"guest={visitor.cookies['guest']}"})
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json() == again.json()
        assert other.post("/report").json() != first.json()


def test_nobody_else_hears_of_a_report(demo_servers: DemoServers, celery: Process) -> None:
    """Neither a stranger in the same room, nor who knows the visitor's own room: only the signed cookie opens it."""
    start(celery)
    with guest(demo_servers.urls[0]) as visitor, guest(demo_servers.urls[1]) as stranger, listen(visitor) as socket:
        with listen(stranger) as other:
            visitor.post("/report").raise_for_status()
            own_room = next_of(socket, "report.progress")["room"]
            key, cookie = own_room.removeprefix("visitor-"), stranger.cookies["guest"]
            name, _, signed = cookie.partition(".")
            _, _, signature = signed.partition(":")
            with listen(stranger, cookie=f"{name}.{key}:{signature}") as forged:
                before = next_of(socket, "report.progress")["message"]["done"]
                assert next_of(socket, "report.progress")["message"]["done"] > before
                stranger.post("/chat/lobby/message", json={"content": "anything for me?"}).raise_for_status()
                # What was sent before would have come before.
                for deaf in (other, forged):
                    assert json.loads(deaf.recv(timeout=5))["MESSAGE_ID"] == "chat.message"
        for someone in (stranger, visitor):
            with listen(someone, own_room) as refused, pytest.raises(ConnectionClosedError):
                refused.recv(timeout=5)
            assert refused.close_code == 4507
            assert someone.post(f"/chat/{own_room}/message", json={"content": "x"}).status_code == 403


def test_who_is_signed_in_is_told_in_the_users_own_room(demo_servers: DemoServers, celery: Process) -> None:
    """Whichever guest she was before."""
    start(celery)
    demo_servers.manage("shell", "-c", CREATE_ANN)
    with guest(demo_servers.urls[0]) as visitor:
        visitor.get("/admin/login/")
        form = {"username": "ann", "password": PASSWORD, "csrfmiddlewaretoken": visitor.cookies["csrftoken"]}
        visitor.post("/admin/login/?next=/admin/", data=form)
        cookie = f"{visitor.cookies['guest']}; sessionid={visitor.cookies['sessionid']}"
        with listen(visitor, cookie=cookie) as socket, listen(visitor) as as_guest:
            visitor.post("/report", headers={"X-CSRFToken": visitor.cookies["csrftoken"]}).raise_for_status()
            assert next_of(socket, "report.progress")["room"].startswith("user-")
            visitor.post(
                "/chat/lobby/message",
                json={"content": "anything for the guest?"},
                headers={"X-CSRFToken": visitor.cookies["csrftoken"]},
            ).raise_for_status()
            assert json.loads(as_guest.recv(timeout=5))["MESSAGE_ID"] == "chat.message"


def test_without_redis_no_report_is_taken(client: Client, settings: Any) -> None:
    """And the page can say so."""
    settings.ROOT_URLCONF = "project.urls"
    settings.CACHES = {**settings.CACHES, "shared": {**settings.CACHES["shared"], "LOCATION": "redis://127.0.0.1:1"}}
    answer = client.post("/report")
    assert (answer.status_code, answer.json()["detail"]) == (503, NoReports.default_detail)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://u:p@h", "rediss://u:p@h"),
        ("unix:///a%20b/redis.sock", "redis+socket:///a%20b/redis.sock"),
        ("unix://u:p%40@/redis.sock?db=3", "redis+socket://u:p%40@/redis.sock?virtual_host=3"),
    ],
)
def test_celery_is_given_the_same_redis(url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose unix socket has another kind of URL there."""
    monkeypatch.setenv("REDIS_URL", url)
    assert broker_url("anywhere") == expected
