"""Lists in the form of a class, in a real Chromium: rows are added, and what is typed there reaches the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from django.http import QueryDict
from pydantic import BaseModel, Field
from selenium.webdriver.common.keys import Keys

from rooms_app.forms import MessageForm, form_class
from tests import test_demo_browser
from tests.live import ROOT
from tests.test_demo_browser import Window

pytestmark = pytest.mark.browser

new_window = test_demo_browser.new_window

SCRIPT = ROOT / "rooms_app" / "static" / "rooms_app" / "forms.js"
SENT = "return new URLSearchParams(new FormData(document.forms[0])).toString()"


class Line(BaseModel):
    sku: Annotated[str, Field(min_length=2)]
    amount: int = 4
    is_gift: bool = True
    notes: list[str] = []


class Order(BaseModel):
    lines: list[Line] = []
    tags: Annotated[list[str], Field(max_length=4)] = []


class Page:
    """A window that shows an order's form, as the server has made it."""

    def __init__(self, window: Window, directory: Path) -> None:
        self.driver = window.driver
        self._file = directory / "form.html"

    def show(self, form: MessageForm) -> None:
        script = f'<script type="module">{SCRIPT.read_text()}</script>'
        self._file.write_text(f'<meta charset="utf-8"><form>{form.as_fieldsets()}</form>{script}')
        self.driver.get(self._file.as_uri())

    def add(self, list_: str) -> None:
        """By keyboard alone; the focus goes to the new row."""
        self.driver.find_element("css selector", f"[data-list='message-{list_}'] > .rooms-add").send_keys(Keys.ENTER)

    def type(self, **values: str) -> None:
        for name, text in values.items():
            self.driver.find_element("name", f"message-{name.replace('__', '-')}").send_keys(text)

    @property
    def focused(self) -> str:
        return str(self.driver.switch_to.active_element.get_attribute("name"))

    def sent(self) -> MessageForm:
        return form_class(Order)(QueryDict(self.driver.execute_script(SENT)), prefix="message")


def test_rows_are_added_and_taken_by_the_server(new_window: Callable[[], Window], tmp_path: Path) -> None:
    """Also rows in a new row, up to the limit; after an error what is typed stays, and a new row is empty."""
    page = Page(new_window(), tmp_path)
    page.show(form_class(Order)(prefix="message"))
    page.type(lines__2__sku="third", lines__2__notes__0="first")
    page.add("lines")
    assert page.focused == "message-lines-3-sku"
    legends = [legend.text for legend in page.driver.find_elements("tag name", "legend")]
    assert "Lines 4" in legends and legends.count("Lines 3") == 1
    page.type(lines__3__sku="4")
    for _ in range(2):
        page.add("lines-3-notes")
    assert page.focused == "message-lines-3-notes-4"
    page.type(lines__3__notes__4="deep", tags__0="one")
    page.add("tags")
    assert page.focused == "message-tags-3"
    page.type(tags__3="four")
    assert not page.driver.find_element("css selector", "[data-list='message-tags'] > .rooms-add").is_displayed()

    wrong = page.sent()
    assert not wrong.is_valid()
    assert wrong.errors == {"lines-3-sku": ["String should have at least 2 characters"]}
    page.show(wrong)
    page.add("lines")
    page.type(lines__3__sku="th", lines__4__sku="fifth")
    form = page.sent()
    assert form.is_valid(), form.errors
    assert form.message == Order(
        lines=[
            Line(sku="third", notes=["first"]),
            Line(sku="4th", notes=["deep"]),
            Line(sku="fifth"),
        ],
        tags=["one", "four"],
    )
    assert page.driver.get_log("browser") == []
