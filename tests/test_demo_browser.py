"""The demo's page in a real Chromium, against two server processes: one daphne, one uvicorn."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

from tests import live
from tests.live import DemoServers
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
CHROMEDRIVER = Path("/usr/bin/chromedriver")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,800"),
)

#: The contrast of each visible text with the colour behind it (WCAG 2.2, 1.4.3), where it is under 4.5.
LOW_CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b]
  .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length < 4 || color[3] === 1) return color;
  }
};
const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
return [...document.body.querySelectorAll("*")]
  .filter((element) => hasText(element) && element.checkVisibility() && !element.matches(".skip, script"))
  .map((element) => {
    const [a, b] = [channels(getComputedStyle(element).color), behind(element)].map(luminance);
    return [element.outerHTML.slice(0, 80), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  })
  .filter(([, contrast]) => contrast < 4.5);
"""


class Window:
    """One visitor's browser window on the chat page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, server: str, room: str, *, status: str = "live") -> None:
        self.driver.get(f"{server}/?room={quote(room, safe='')}")
        self.wait_for(status)

    def text(self, id_: str) -> str:
        return self.driver.find_element("id", id_).text

    def wait_for(self, status: str) -> None:
        wait_until(lambda: self.text("status") == status, what=f"status {status!r}", timeout=25)

    def type(self, text: str) -> None:
        self.driver.find_element("id", "content").send_keys(text)

    def paste(self, text: str) -> None:
        """Put a long text in at once: typing thousands of keys takes minutes."""
        self.driver.find_element("id", "content").click()
        self.driver.execute_script("document.execCommand('insertText', false, arguments[0])", text)

    def say(self, text: str) -> None:
        self.type(text + Keys.ENTER)
        self.wait_for_message(text)

    @property
    def written(self) -> str:
        return self.driver.find_element("id", "content").get_property("value")

    def messages(self) -> list[str]:
        return self.driver.execute_script(
            "return [...document.querySelectorAll('#messages .text')].map((element) => element.textContent)"
        )

    def wait_for_message(self, text: str) -> None:
        wait_until(lambda: text in self.messages(), what=f"the message {text[:80]!r}")

    def console_errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def set_scheme(self, scheme: str) -> None:
        # With motion, a colour that is on its way to the new scheme's would be measured.
        media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def set_size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def new_window(tmp_path: Path) -> Iterator[Callable[[], Window]]:
    """Opens windows that share nothing: each is another guest."""
    missing = [str(path) for path in (CHROMIUM, CHROMEDRIVER) if not shutil.which(path)]
    if missing:
        reason = f"browser tests need {' and '.join(missing)} (Debian: apt install chromium chromium-driver)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    drivers: list[Chrome] = []

    def new() -> Window:
        options = ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path / f'profile-{len(drivers)}'}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        drivers.append(Chrome(options=options, service=Service(str(CHROMEDRIVER))))
        return Window(drivers[-1])

    yield new
    for driver in drivers:
        driver.quit()


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room for one test: its servers are shared with others."""
    return request.node.name


@pytest.fixture
def windows(new_window: Callable[[], Window], demo_servers: DemoServers, room: str) -> tuple[Window, Window]:
    """Two visitors in the room, each at a server process of their own."""
    left, right = new_window(), new_window()
    left.open(demo_servers.urls[0], room)
    right.open(demo_servers.urls[1], room)
    return left, right


def test_what_is_written_in_one_process_is_read_in_the_other(windows: tuple[Window, Window], room: str) -> None:
    left, right = windows
    processes = {left.text("process"), right.text("process")}
    assert len(processes) == 2 and all(len(process) > 1 for process in processes)
    assert left.driver.title == f"{room} · Rooms"
    assert "second window" in right.text("empty")
    left.say("hello from the left")
    right.wait_for_message("hello from the left")
    right.say("and from the right")
    left.wait_for_message("and from the right")
    assert left.text("username") in right.text("messages")
    own = "return [...document.querySelectorAll('.message')].map((element) => element.matches('.own'))"
    assert left.driver.execute_script(own) == [True, False]
    assert right.driver.execute_script(own) == [False, True]
    assert left.driver.find_element("tag name", "time").get_attribute("datetime").endswith("Z")
    assert not right.driver.find_element("id", "empty").is_displayed()
    assert left.written == right.written == ""
    assert left.console_errors() == right.console_errors() == []


def test_markup_in_a_message_is_text(windows: tuple[Window, Window]) -> None:
    left, right = windows
    markup = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    left.say(markup)
    right.wait_for_message(markup)
    for window in windows:
        assert window.driver.find_elements("css selector", "#messages img, #messages script") == []
        assert window.driver.title != "run"
        assert window.console_errors() == []


def test_enter_sends_and_shift_enter_begins_a_line(windows: tuple[Window, Window]) -> None:
    left, right = windows
    left.type("one" + Keys.SHIFT + Keys.ENTER + Keys.SHIFT + "two" + Keys.ENTER)
    right.wait_for_message("one\ntwo")


def test_a_message_that_is_too_long_is_explained_and_kept(windows: tuple[Window, Window]) -> None:
    left, right = windows
    left.paste("x" * 4_001)
    left.driver.find_element("id", "send").click()
    wait_until(lambda: "content" in left.text("error") and "4000" in left.text("error"), what="the reason")
    assert left.written == "x" * 4_001
    left.type(Keys.BACKSPACE + Keys.ENTER)
    right.wait_for_message("x" * 4_000)
    wait_until(lambda: (left.text("error"), left.written) == ("", ""), what="an empty composer")


@pytest.mark.parametrize("index", [0, 1], ids=["daphne", "uvicorn"])
def test_a_page_comes_back_when_its_server_does(
    windows: tuple[Window, Window], demo_servers: DemoServers, index: int
) -> None:
    here, there = windows[index], windows[1 - index]
    before = here.text("process")
    there.say("before")
    here.wait_for_message("before")
    demo_servers.stop(index)
    try:
        here.wait_for("reconnecting")
        assert there.text("status") == "live"
        there.say("meanwhile")
        here.type("kept" + Keys.ENTER)
        wait_until(lambda: here.text("error"), what="the reason")
        assert here.written == "kept"
    finally:
        demo_servers.restart(index)
    here.wait_for("live")
    assert here.text("process") != before
    there.say("you are back")
    here.wait_for_message("you are back")
    # Either it was replayed, or the page says that something may be missing: never neither, never both.
    gaps = [gap.text for gap in here.driver.find_elements("css selector", "#messages .gap")]
    was_replayed = here.messages() == ["before", "meanwhile", "you are back"]
    assert gaps == ([] if was_replayed else ["You may have missed messages here"])
    assert there.driver.find_elements("css selector", "#messages .gap") == []


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_with_history_a_page_that_comes_back_has_missed_nothing(
    new_window: Callable[[], Window], tmp_path: Path, room: str, kind: str
) -> None:
    """What was sent meanwhile is replayed, in its place, and the page shows no gap."""
    with live.demo_servers(kind, kind, directory=tmp_path / "demo", layer="rooms") as demo:
        here, there = new_window(), new_window()
        here.open(demo.urls[0], room)
        there.open(demo.urls[1], room)
        there.say("before")
        here.wait_for_message("before")
        demo.stop(0)
        here.wait_for("reconnecting")
        there.say("meanwhile")
        demo.restart(0)
        here.wait_for("live")
        there.say("afterwards")
        here.wait_for_message("afterwards")
        assert here.messages() == there.messages() == ["before", "meanwhile", "afterwards"]
        assert here.driver.find_elements("css selector", "#messages .gap") == []


def test_a_page_that_was_offline_while_its_server_restarted_is_complete(
    new_window: Callable[[], Window], tmp_path: Path, room: str
) -> None:
    """Offline, then online, then a restart while it looks on: the log has everything, in order and once."""
    with live.demo_servers("daphne", "uvicorn", directory=tmp_path / "demo", layer="rooms") as demo:
        here, there = new_window(), new_window()
        here.open(demo.urls[0], room)
        there.open(demo.urls[1], room)
        there.say("before")
        here.wait_for_message("before")
        here.driver.set_network_conditions(offline=True, latency=0, throughput=0)
        demo.stop(0)
        here.wait_for("reconnecting")
        there.say("while offline")
        demo.restart(0)
        there.say("still offline")
        assert here.text("status") != "live"
        here.driver.set_network_conditions(offline=False, latency=0, throughput=-1)
        here.wait_for("live")
        here.wait_for_message("still offline")
        demo.stop(0)
        here.wait_for("reconnecting")
        there.say("while restarting")
        demo.restart(0)
        here.wait_for("live")
        there.say("afterwards")
        here.wait_for_message("afterwards")
        said = ["before", "while offline", "still offline", "while restarting", "afterwards"]
        assert here.messages() == there.messages() == said
        assert here.driver.find_elements("css selector", "#messages .gap") == []


def test_another_room_is_another_conversation(windows: tuple[Window, Window], room: str) -> None:
    left, right = windows
    other = f"{room} 日本/ö?#%2F"
    left.say("before")
    field = left.driver.find_element("id", "room")
    field.clear()
    field.send_keys(other + Keys.ENTER)
    wait_until(lambda: left.text("room-name") == other, what="the other room")
    left.wait_for("live")
    assert left.messages() == []
    assert unquote(left.driver.current_url.partition("?room=")[2]) == other
    assert left.driver.title == f"{other} · Rooms"
    left.say("only here")
    left.driver.back()
    wait_until(lambda: left.text("room-name") == room, what="the first room again")
    left.wait_for("live")
    right.say("still here")
    left.wait_for_message("still here")
    assert right.messages() == ["before", "still here"]
    assert left.console_errors() == []


def test_a_room_that_may_not_be_entered_says_so(new_window: Callable[[], Window], demo_servers: DemoServers) -> None:
    window = new_window()
    window.open(demo_servers.urls[0], "user-1", status="refused")
    assert window.driver.find_element("id", "status").get_attribute("data-state") == "stopped"
    assert window.text("notice-text") == "This room is only for visitors who are signed in."


def test_who_reads_further_up_is_not_moved(windows: tuple[Window, Window], room: str) -> None:
    left, right = windows
    origin = right.driver.current_url.partition("/?")[0]
    for number in range(30):
        httpx.post(f"{origin}/chat/{quote(room)}/message", json={"content": f"message {number}"})
    left.wait_for_message("message 29")
    place = (
        "const list = document.getElementById('messages');return list.scrollHeight - list.scrollTop - list.clientHeight"
    )
    assert left.driver.execute_script(place) < 2
    left.driver.execute_script("document.getElementById('messages').scrollTop = 0")
    button = left.driver.find_element("id", "new-messages")
    wait_until(lambda: left.driver.execute_script(place) > 100, what="the scroll")
    right.say("news")
    wait_until(lambda: button.is_displayed() and button.text == "1 new message", what="the button")
    assert left.driver.execute_script("return document.getElementById('messages').scrollTop") == 0
    button.click()
    wait_until(lambda: left.driver.execute_script(place) < 2 and not button.is_displayed(), what="the newest")


def test_the_keyboard_gets_to_the_composer_at_once(windows: tuple[Window, Window]) -> None:
    left, right = windows
    left.driver.find_element("tag name", "body").send_keys(Keys.TAB)
    left.driver.switch_to.active_element.send_keys(Keys.ENTER)
    left.driver.switch_to.active_element.send_keys("no mouse" + Keys.ENTER)
    right.wait_for_message("no mouse")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in_light_and_dark_wide_and_narrow(
    windows: tuple[Window, Window], demo_servers: DemoServers, scheme: str, tmp_path: Path
) -> None:
    """Writes its screenshots to $ROOMS_SCREENSHOTS, for whoever wants to look too."""
    directory = Path(os.environ.get("ROOMS_SCREENSHOTS") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    left, right = windows
    left.set_scheme(scheme)

    def look(name: str, width: int, height: int) -> None:
        left.set_size(width, height)
        left.driver.save_screenshot(str(directory / f"{scheme}-{name}.png"))
        # Both: a phone's browser zooms out until what is too wide fits.
        widths = "return [innerWidth, document.documentElement.scrollWidth]"
        assert left.driver.execute_script(widths) == [width, width]
        assert left.driver.execute_script(LOW_CONTRAST) == []

    look("long-name", 360, 720)
    left.open(demo_servers.urls[0], f"release {scheme}")
    right.open(demo_servers.urls[1], f"release {scheme}")
    look("empty", 1280, 800)
    right.say("Morning! Is the release still on for three o'clock?")
    left.say("Yes. The last migration ran twenty minutes ago, all green.")
    left.say("One address to look at: https://example.com/" + "a-long-path/" * 8)
    right.say("Thank you, I will write the notes.")
    left.wait_for_message("Thank you, I will write the notes.")
    look("wide", 1280, 800)
    look("narrow", 360, 720)
    left.open(demo_servers.urls[0], "user-1", status="refused")
    look("refused", 1280, 800)


PLAIN_CLIENT = """
const [url, post, done] = arguments;
const got = [];
const socket = new WebSocket(url);
socket.onopen = () => post.forEach((address, number) =>
  fetch(address, {method: "POST", headers: {"Content-Type": "application/json"},
                  body: JSON.stringify({content: `message ${number}`})}));
socket.onmessage = (event) => {
  got.push(JSON.parse(event.data));
  if (got.length === post.length) done(got);
};
"""


def test_new_websocket_and_json_parse_are_a_whole_client(
    new_window: Callable[[], Window], demo_servers: DemoServers, room: str
) -> None:
    """On the demo's own origin, without any library; a POST in the very moment `onopen` fires is delivered."""
    window = new_window()
    for server, ws in zip(demo_servers.urls, demo_servers.ws_urls, strict=True):
        window.driver.get(f"{server}/health/live")
        got = window.driver.execute_async_script(PLAIN_CLIENT, f"{ws}/ws/{room}", [f"{server}/chat/{room}/message"] * 3)
        assert {frame["message"]["content"] for frame in got} == {"message 0", "message 1", "message 2"}
        assert {(frame["MESSAGE_ID"], frame["room"]) for frame in got} == {("chat.message", room)}
