"""rooms.js, the client in the browser: its own tests run on node; here is what Django has to do with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders

from tests.live import ROOT

ROOMS_JS = ROOT / "rooms_app" / "static" / "rooms_app" / "rooms.js"


def test_rooms_js_does_what_its_own_tests_say() -> None:
    """`node --test tests/js/*.test.mjs`: each of them is a sentence about the client."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("rooms.js is tested on node: install it, version 20 or newer (Debian: apt install nodejs)")
    files = sorted((ROOT / "tests" / "js").glob("*.test.mjs"))
    assert len(files) > 1
    done = subprocess.run(
        [node, "--test", *files], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_project_finds_rooms_js_among_its_static_files() -> None:
    """With `rooms_app` in INSTALLED_APPS, `{% static 'rooms_app/rooms.js' %}` is served."""
    found = finders.find("rooms_app/rooms.js")
    assert found is not None and Path(found) == ROOMS_JS


def test_rooms_js_is_whole_in_one_file() -> None:
    """It imports nothing: a page needs no build and no import map."""
    code = re.sub(r"/\*[\s\S]*?\*/|//.*", "", ROOMS_JS.read_text())
    assert not re.search(r"\bimport\b|\bfrom\s*[\"']|\brequire\s*\(", code)
    exported = re.findall(r"^export (?:class|function) (\w+)", code, re.MULTILINE)
    assert exported == ["connect", "Rooms"]
