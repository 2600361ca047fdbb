"""The order of the house: which module imports which, what is public, how long a file may be."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import rooms_app
from tests.live import ROOT

PACKAGES = ("rooms_app", "project")
SOURCE = sorted(ROOT.glob("rooms_app/**/*.py"))
#: A file that grows past 300 lines holds two concepts; this leaves room for a fix, not for a third.
MAX_LINES = 320
#: The modules that projects import from, beside rooms_app itself.
PUBLIC_MODULES = (
    "rooms_app.bus",
    "rooms_app.changes",
    "rooms_app.counts",
    "rooms_app.embedded",
    "rooms_app.health",
    "rooms_app.layers",
    "rooms_app.presence",
    "rooms_app.reports",
    "rooms_app.rooms",
    "rooms_app.routing",
    "rooms_app.testing",
    "rooms_app.views",
)


def python(code: str, **env: str) -> str:
    """What code prints in a Python of its own that has no settings; fails the test when the code fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_run_downwards() -> None:
    """The contracts of pyproject.toml hold."""
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint_imports, "--no-cache"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_holds_two_concepts() -> None:
    """Neither Python nor templates, scripts, styles or Lua."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for package in PACKAGES
        for kind in ("py", "js", "css", "html", "lua")
        for path in ROOT.glob(f"{package}/**/*.{kind}")
    }
    assert len(lengths) > 30
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_importing_rooms_app_loads_no_models_no_drf_and_no_celery() -> None:
    """A process that only sends stays light, and a project's settings and models may import rooms_app."""
    loaded = set(python("import sys, rooms_app; print(*sys.modules)").split())
    assert "rooms_app.hub" in loaded
    models = {name for name in loaded if name.endswith(".models")} - {"django.db.models", "django.forms.models"}
    assert models == set()
    packages = {name.split(".")[0] for name in loaded}
    assert packages & {"rest_framework", "celery", "daphne", "twisted", "uvicorn"} == set()


@pytest.mark.parametrize("module", ["rooms_app", "rooms_app.layers", "rooms_app.embedded"])
def test_what_settings_import_needs_no_settings(module: str) -> None:
    """A settings module can call what it needs of rooms_app: nothing is configured yet, and nothing becomes so."""
    code = f"import {module}; from django.conf import settings; print(settings.configured)"
    assert python(code) == "False\n"


def test_a_channel_layer_entry_can_be_made_without_settings() -> None:
    """As the demo's settings do."""
    code = "from rooms_app.layers import channel_layer as c; print(c('pubsub', 'redis://x')['CONFIG']['prefix'])"
    assert python(code) == "rooms\n"


def test_only_conf_reads_djangos_settings() -> None:
    """So every key is in one place, with its default, and is read at use."""
    readers = {str(path.relative_to(ROOT)) for path in SOURCE if any(_settings_imports(path))}
    assert readers == {"rooms_app/conf.py"}


def _settings_imports(path: Path) -> Iterator[str]:
    """The imports through which a file could get at Django's settings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("django.conf"))
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & {"django.conf", "django.conf.settings", "django.conf.*"}


def test_all_names_what_is_public_and_nothing_else() -> None:
    """`__init__` is a table of contents: what it imports is public."""
    imported = {
        name
        for name, value in vars(rooms_app).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert rooms_app.__all__ == sorted(rooms_app.__all__)
    assert set(rooms_app.__all__) == imported


@pytest.mark.parametrize("module", ["rooms_app", *PUBLIC_MODULES])
def test_what_is_public_has_a_docstring(module: str) -> None:
    """Every class and function, and every method of ours that is not private."""
    imported = import_module(module)
    assert inspect.getdoc(imported)
    assert [name for name, documented in _public_names(imported) if not documented] == []


def _public_names(module: types.ModuleType) -> Iterator[tuple[str, bool]]:
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    for name in names:
        value = getattr(module, name)
        if name.startswith("_") or not callable(value):
            continue
        yield name, bool(value.__doc__)
        if inspect.isclass(value):
            yield from ((f"{name}.{member}", documented) for member, documented in _public_members(value))


def _public_members(cls: type) -> Iterator[tuple[str, bool]]:
    """The methods and properties of a class and of its bases here; what overrides may inherit its docstring."""
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("rooms_app"):
            members |= vars(base)
    for name, member in members.items():
        is_method = callable(member) or isinstance(member, property | classmethod | staticmethod)
        if is_method and not name.startswith("_") and not inspect.isclass(member):
            yield name, bool(inspect.getdoc(getattr(cls, name)))
