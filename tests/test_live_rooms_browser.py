"""The live rooms page in a real Chromium: it follows visitors of another process, and nobody reloads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests import test_demo_browser
from tests.live import DemoServers
from tests.test_admin_browser import PASSWORD, Admin
from tests.test_demo_browser import Window
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

new_window = test_demo_browser.new_window

LIST = "/admin/rooms_app/liveroom/"

USERS = f"""
from django.contrib.auth.models import User
User.objects.create_superuser("ops", password={PASSWORD!r})
print("user-" + str(User.objects.create_user("ann", password={PASSWORD!r}, is_staff=True).pk))
"""

#: The close code of a socket that says nothing.
CLOSE_CODE = """
const [url, done] = arguments;
new WebSocket(url).onclose = (event) => done(event.code);
"""

LOGOUT = "fetch('/admin/logout/', {method: 'POST', body: new FormData(document.getElementById('logout-form'))})"


@pytest.fixture(scope="module")
def ann(demo_servers: DemoServers) -> str:
    """The room of one of the staff who may not see rooms; beside her there is an operator."""
    return demo_servers.manage("shell", "-v0", "-c", USERS).stdout.strip()


@contextmanager
def guests(demo: DemoServers, *rooms: str) -> Iterator[None]:
    """Connections in these rooms, on the other process than the operator's."""
    with ExitStack() as stack:
        for room in rooms:
            stack.enter_context(connect(f"{demo.ws_urls[1]}/ws/{room}"))
        yield


class LiveRooms(Admin):
    """A window on the live rooms page, or on the way there."""

    def show(self, server: str) -> None:
        self.driver.get(f"{server}{LIST}")
        self.wait_for_state("Live.")

    def wait_for_state(self, text: str) -> None:
        wait_until(lambda: self.part("state").startswith(text), what=text, timeout=25)

    def part(self, name: str) -> str:
        return self.driver.find_element("css selector", f"[data-{name}]").text

    def rooms(self, table: str = "rooms") -> dict[str, str]:
        """The rooms as they are shown, with their counts, in order; of another table its first two columns."""
        rows = f"[...document.querySelectorAll('[data-table={table}] tbody tr')]"
        script = f"return {rows}.map((row) => [row.cells[0].textContent, row.cells[1].textContent])"
        return dict(self.driver.execute_script(script))

    def wait_for_rooms(self, **expected: str) -> None:
        """Without the place that a row has."""
        wait_until(lambda: self.rooms() == expected, what=f"{expected}", timeout=15)

    def focus(self, label: str) -> None:
        button = self.driver.find_element("css selector", f"[aria-label='{label}']")
        self.driver.execute_script("arguments[0].focus()", button)

    def blur(self) -> None:
        self.driver.execute_script("document.activeElement.blur()")

    def press_button(self, value: str) -> None:
        self._enter(f"button[value='{value}']")

    def focused(self) -> str:
        return str(self.driver.switch_to.active_element.get_attribute("aria-label"))

    def errors(self) -> list[str]:
        # Chromium asks for an icon that neither the admin nor the demo has.
        return [error for error in self.console_errors() if "/favicon.ico" not in error]


def is_refused_to_staff(window: Admin, demo: DemoServers) -> None:
    """To be of the staff is not enough: the page says so, and its socket closes for good, as for the anonymous."""
    url = f"{demo.ws_urls[1]}/rooms-admin/live"
    window.driver.get(f"{demo.urls[1]}/health/live")
    assert window.driver.execute_async_script(CLOSE_CODE, url) == 4500
    window.sign_in(demo.urls[1], "ann")
    assert window.driver.execute_async_script(CLOSE_CODE, url) == 4507
    window.driver.get(f"{demo.urls[1]}{LIST}")
    assert "403 Forbidden" in window.driver.page_source


def test_an_operators_page_follows_visitors_and_one_is_kicked_from_it(
    new_window: Callable[[], Window], demo_servers: DemoServers, ann: str, tmp_path: Path
) -> None:
    """She is on one process, they are on the other. Screenshots go to $ROOMS_SCREENSHOTS."""
    here, there = demo_servers.urls
    directory = Path(os.environ.get("ROOMS_SCREENSHOTS") or tmp_path) / "live-rooms"
    visitor, operator = Admin(new_window().driver), LiveRooms(new_window().driver)
    is_refused_to_staff(visitor, demo_servers)
    operator.sign_in(here, "ops")
    operator.show(here)
    operator.driver.execute_script("window.isLoadedOnce = true")
    assert (operator.rooms(), operator.part("empty")) == ({}, "There are none.")
    visitor.open(there, "den")
    operator.wait_for_rooms(den="1", **{ann: "1"})
    assert operator.part("total=connections") == "2 connections"

    # Nothing moves from under the keyboard.
    operator.focus("Close den")
    before = list(operator.rooms())
    with guests(demo_servers, "den", "attic", "attic", "attic"):
        operator.wait_for_rooms(den="2", attic="3", **{ann: "1"})
        assert (list(operator.rooms()), operator.focused()) == ([*before, "attic"], "Close den")
        operator.blur()
        wait_until(lambda: list(operator.rooms()) == ["attic", "den", ann], what="their order")
        operator.look("rooms", directory)
        operator.focus("Close attic")
    operator.wait_for_rooms(attic="0", den="1", **{ann: "1"})
    assert operator.focused() == "Close attic"
    operator.blur()
    operator.wait_for_rooms(den="1", **{ann: "1"})
    assert operator.driver.execute_script("return window.isLoadedOnce")

    # One room and one user are followed, too.
    operator.driver.get(f"{here}{LIST}room/?name=den")
    operator.wait_for_state("Live.")
    with guests(demo_servers, "den"):
        wait_until(lambda: operator.part("total=connections") == "2 connections", what="the guest", timeout=15)
        operator.look("room", directory)
    wait_until(lambda: operator.part("total=connections") == "1 connection", what="the guest to go", timeout=15)
    operator.driver.get(f"{here}{LIST}?user=ann")
    operator.wait_for_state("Live.")
    wait_until(lambda: list(operator.rooms("connections")) != [], what="her connection")
    operator.look("user", directory)
    operator.press_button("kick")
    operator.press("Kick ann")
    wait_until(lambda: visitor.driver.find_element("id", "status").get_attribute("data-state") == "stopped", what="it")
    operator.wait_for_rooms()
    operator.wait_for_state("Live.")
    # As she would in another tab.
    operator.driver.execute_script(LOGOUT)
    operator.wait_for_state("Not live:")
    assert operator.part("reload") == "reload"
    assert operator.errors() == []
