"""daphne's runserver, with the bundled Redis beside it when the project has asked for one."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from typing import Any

from daphne.management.commands import runserver
from django.core.management.base import CommandError
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV

from rooms_app.conf import rooms_settings
from rooms_app.embedded import EmbeddedRedis, is_bundled
from rooms_app.exceptions import RoomsError
from rooms_app.processes import die_with_parent

_OUTER_PID = "ROOMS_RUNSERVER_PID"


class Command(runserver.Command):  # type: ignore[misc]  # daphne has no types
    """Starts the bundled Redis once, in the outer process: the autoreloader's inner ones come and go."""

    def run(self, **options: Any) -> None:
        """Run the server, between start and stop of the bundled Redis if that is the one to use."""
        if os.environ.get(DJANGO_AUTORELOAD_ENV) == "true":
            _end_with_outer_process()
            super().run(**options)
            return
        os.environ[_OUTER_PID] = str(os.getpid())
        with ExitStack() as stack:
            if (directory := rooms_settings().embedded_directory) and is_bundled():
                # SIGTERM would end Python on the spot: unwind to the stop below until a server takes it over.
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                try:
                    server = EmbeddedRedis(directory)
                    stack.callback(server.stop)
                    server.start(share=True)
                except RoomsError as error:
                    raise CommandError(str(error)) from error
                self.stdout.write(f"The bundled Redis is at {server.url}")
            super().run(**options)


def _end_with_outer_process() -> None:
    # Without this, SIGKILL of the outer process would leave the inner one behind, holding the port.
    if outer := os.environ.get(_OUTER_PID):
        die_with_parent(signal.SIGKILL, parent=int(outer))()
