"""Processes that end with their parent, and locks that end with their process."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rooms_app.exceptions import RoomsError

if sys.platform != "win32":
    import fcntl

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int, *, parent: int | None = None) -> Callable[[], None]:
    """A `preexec_fn` by which the child gets this signal when its parent dies, also by SIGKILL; Linux only.

    A process that was started otherwise calls the result itself, with its parent's pid. Raises `RoomsError`
    outside the main thread: the kernel signals when the thread that made the child ends.
    """
    if sys.platform != "linux":
        return lambda: None
    if threading.current_thread() is not threading.main_thread():
        raise RoomsError("Only the main thread can start a process that ends with this one.")
    expected = os.getpid() if parent is None else parent
    # Looked up here: a child between fork and exec may not take the locks that loading a library takes.
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
        # The parent may have died before the line above, and then no signal ever comes.
        if os.getppid() != expected:
            os._exit(1)

    return bind


class ProcessLock:
    """A lock file that one process holds until it lets go or dies, and that names its holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The open file that carries the lock; None while we don't hold it.
        self._file: int | None = None

    def acquire(self) -> bool:
        """Whether the lock is ours now; False if someone else holds it."""
        if self._file is not None:
            return True
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if not lock(file):
            os.close(file)
            return False
        self._file = file
        os.ftruncate(file, 0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        os.write(file, f"{os.getpid()} ({command})".encode())
        return True

    def release(self) -> None:
        """Let go of the lock; the file stays, or two processes could lock two files of one name."""
        if self._file is None:
            return
        file, self._file = self._file, None
        # Unlocked and not only closed: a forked child that still has this file open would keep the lock.
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)

    def holder(self) -> str:
        """Who holds the lock, for a message: `1234 (manage.py demo)`."""
        return self.path.read_text(errors="replace") or "of unknown number"


def lock(file: int) -> bool:
    """Whether this open file's lock is ours now; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
