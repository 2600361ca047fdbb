"""The tests of what is stored once more, on PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.live import ROOT
from tests.postgres import Postgres
from tests.test_architecture import python

#: Forks, as a worker does for a process that died, with a relay that has used Django's pool of connections. The child
#: closes what it inherited, as Celery does.
FORK = """
import os, sys
import django
from django.conf import settings
from tests import settings_postgres as base
values = {name: getattr(base, name) for name in dir(base) if name.isupper()}
values["DATABASES"]["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 1}}
settings.configure(**values)
django.setup()
from django.db import connection, connections
from rooms_app.bus.workers import Relay

relay = Relay()
relay.closes_pools = True
os.register_at_fork(before=relay._hold_off, after_in_parent=relay._go_on)

def ask():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connections.close_all()

ask()
child = os.fork()
if not child:
    connection.close_pool()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
ask()
print("asked again")
"""

FILES = ("tests/test_relay.py", "tests/test_outbox_messages.py", "tests/test_admin_dead_letters.py")


@pytest.mark.slow
def test_the_outbox_and_the_dead_letters_work_on_postgresql_too(postgres: Postgres) -> None:
    """In a process of their own, since a process has one set of databases; theirs start processes, too."""
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | postgres.env
    command = [sys.executable, "-m", "pytest", "--ds=tests.settings_postgres", "-p", "no:cacheprovider", "-q", *FILES]
    done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed in", done.stdout, re.MULTILINE), done.stdout


def test_a_fork_leaves_the_relays_pool_of_connections_alone(postgres: Postgres) -> None:
    """Django's, of psycopg: what a child closes would end the sessions of its parent."""
    assert python(FORK, **{**os.environ, **postgres.env}) == "asked again\n"
