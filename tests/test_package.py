"""What a project gets from `pip install`: a wheel with everything in it, and nothing else needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import rooms_app
from tests.live import ROOT

TEST_COMMAND = "python -m venv .venv && .venv/bin/pip install -r requirements-dev.txt && .venv/bin/python -m pytest"

IMPORT_EVERYTHING = """
import pkgutil
from importlib import import_module
import django
from django.conf import settings
import rooms_app
settings.configure(
    SECRET_KEY="only-for-tests",
    INSTALLED_APPS=[
        "rooms_app",
        *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")),
    ],
)
django.setup()
# It imports packages to look into them: this one needs the extra.
for module in pkgutil.walk_packages(rooms_app.__path__, "rooms_app.", onerror=lambda name: None):
    if module.name != "rooms_app.tasks" and not module.name.startswith("rooms_app.bus"):
        import_module(module.name)
print(rooms_app.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; fails the test when the command fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DJANGO"))}
    done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be uploaded."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", directory, cwd=ROOT)
    (built,) = directory.glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_contains_the_whole_package_and_only_that(wheel: Path) -> None:
    """Templates, scripts, Lua and `py.typed` too; no tests and no demo."""
    here = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("rooms_app/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        headers = Parser().parsestr(archive.read(metadata[0]).decode())
    assert "rooms_app/py.typed" in inside
    assert inside == here
    assert headers["Version"] == rooms_app.__version__


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_wheel_needs_nothing_else(wheel: Path, tmp_path: Path) -> None:
    """Every module of it imports outside of the checkout, with the run-time dependencies alone."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)
    assert str(environment) in run(python, "-c", IMPORT_EVERYTHING, cwd=tmp_path)


def test_requirements_are_those_of_the_package() -> None:
    """Whoever installs requirements.txt gets the ranges that `pip install` gives, and both servers."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    given = {Requirement(line) for line in lines if line and not line.startswith("#")}
    extras: dict[str, list[str]] = pyproject()["optional-dependencies"]
    wanted = {Requirement(each) for part in (pyproject()["dependencies"], *extras.values()) for each in part}
    assert wanted - given == set()


def test_the_version_is_the_same_everywhere() -> None:
    """In the package, its metadata, and the changelog."""
    assert pyproject()["version"] == rooms_app.__version__
    assert f"## [{rooms_app.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    """To the letter: what a newcomer types is what is known to work."""
    assert TEST_COMMAND in (ROOT / "README.md").read_text()
    assert TEST_COMMAND in (ROOT / ".ci" / "run").read_text()
