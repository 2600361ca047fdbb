"""The tests of what is stored once more, on PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.live import ROOT
from tests.postgres import Postgres

FILES = ("tests/test_relay.py", "tests/test_outbox_messages.py", "tests/test_admin_dead_letters.py")


@pytest.mark.slow
def test_the_outbox_and_the_dead_letters_work_on_postgresql_too(postgres: Postgres) -> None:
    """In a process of their own, since a process has one set of databases; theirs start processes, too."""
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | postgres.env
    command = [sys.executable, "-m", "pytest", "--ds=tests.settings_postgres", "-p", "no:cacheprovider", "-q", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed in", done.stdout, re.MULTILINE), done.stdout
