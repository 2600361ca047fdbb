"""An operator's broadcast in a real Chromium: written in one process, read by a page of another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests import test_demo_browser
from tests.live import DemoServers
from tests.test_demo_browser import LOW_CONTRAST, Window
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

new_window = test_demo_browser.new_window

PASSWORD = "only-for-tests"
ROOM = "broadcasts"


@pytest.fixture(scope="module")
def operator(demo_servers: DemoServers) -> str:
    """A superuser of the demo."""
    demo_servers.env["DJANGO_SUPERUSER_PASSWORD"] = PASSWORD
    demo_servers.manage("createsuperuser", "--noinput", "--username", "ops", "--email", "ops@example.org")
    return "ops"


class Admin(Window):
    """A window on the admin."""

    def sign_in(self, server: str, name: str) -> None:
        self.driver.get(f"{server}/admin/login/?next=/admin/rooms_app/broadcast/")
        self.fill(username=name, password=PASSWORD)
        self.press("Log in")

    def fill(self, **values: str) -> None:
        for name, value in values.items():
            field = self.driver.find_element("name", name.replace("__", "-"))
            field.clear()
            field.send_keys(value)

    def choose(self, name: str, value: str) -> None:
        # By keyboard: the radio buttons are to be reached without a mouse.
        self.driver.find_element("css selector", f"[name='{name}'][value='{value}']").send_keys(Keys.SPACE)

    def press(self, label: str) -> None:
        self._enter(f"[type='submit'][value='{label}']")

    def follow(self, selector: str) -> None:
        self._enter(f"a{selector}")

    def _enter(self, selector: str) -> None:
        """The Enter key on an element that leads to another page."""
        self.driver.execute_script("window.isOld = true")
        self.driver.find_element("css selector", selector).send_keys(Keys.ENTER)
        is_new = "return !window.isOld && document.readyState === 'complete'"
        wait_until(lambda: self.driver.execute_script(is_new), what="the next page")

    def look(self, name: str, directory: Path) -> None:
        """The page in light and dark, wide and narrow: nothing sticks out, everything can be read."""
        directory.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            self.set_scheme(scheme)
            for width, height in ((1280, 1000), (400, 1000)):
                self.set_size(width, height)
                self.driver.save_screenshot(str(directory / f"{scheme}-{width}-{name}.png"))
                widths = "return [innerWidth, document.documentElement.scrollWidth <= innerWidth]"
                assert self.driver.execute_script(widths) == [width, True], (name, scheme)
                contrasts = LOW_CONTRAST.replace("document.body", "document.querySelector('#content-main')")
                assert self.driver.execute_script(contrasts) == [], (name, scheme)
        self.set_size(1280, 1000)


def test_an_operator_writes_previews_and_sends_and_a_page_of_another_process_shows_it(
    new_window: Callable[[], Window], demo_servers: DemoServers, operator: str, tmp_path: Path
) -> None:
    """With the keyboard alone, after a mistake that is explained; screenshots go to $ROOMS_SCREENSHOTS."""
    directory = Path(os.environ.get("ROOMS_SCREENSHOTS") or tmp_path) / "admin"
    visitor, admin = new_window(), Admin(new_window().driver)
    visitor.open(demo_servers.urls[1], ROOM)
    admin.sign_in(demo_servers.urls[0], operator)
    admin.follow(".addlink[href$='/broadcast/add/']")
    admin.look("choose", directory)
    admin.follow("[href='?type=chat.message']")
    admin.choose("audience", "rooms")
    admin.fill(rooms=ROOM, message__user_id="ops", message__username="Operations", message__content="Back at 14:00")
    admin.press("Save and preview")
    error = admin.driver.find_element("css selector", ".field-timestamp .errorlist")
    assert error.text
    described = admin.driver.find_element("name", "message-timestamp").get_attribute("aria-describedby")
    assert error.get_attribute("id") in (described or "").split()
    admin.look("errors", directory)
    field = admin.driver.find_element("name", "message-timestamp")
    admin.driver.execute_script("arguments[0].value = '2026-01-01T12:00'", field)
    admin.look("form", directory)
    admin.press("Save and preview")
    assert '"content":"Back at 14:00"' in admin.text("exact")
    assert f'"room": "{ROOM}"' in admin.text("pretty")
    wait_until(lambda: _reloaded(admin) == "about 1", what="the one connection")
    admin.look("preview", directory)
    assert visitor.messages() == []
    admin.press("Send now")
    assert admin.text("state") == "Sent"
    visitor.wait_for_message("Back at 14:00")
    admin.look("sent", directory)
    assert visitor.messages() == ["Back at 14:00"]
    assert admin.driver.find_elements("css selector", "#content-main [type='submit']") == []
    # Chromium asks for an icon that neither the admin nor the demo has.
    errors = [error for error in admin.console_errors() if "/favicon.ico" not in error]
    assert errors == visitor.console_errors() == []


def _reloaded(admin: Admin) -> str:
    admin.driver.refresh()
    return admin.text("reach")
