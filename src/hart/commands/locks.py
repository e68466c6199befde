"""One process at a time in a folder: a lock of the operating system, which ends with its process, however that ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from hart.errors import HartError

LOCK_FILE = ".hart-lock"
HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
"""What systems say of a lock that another process has; anything else comes of drives without locks."""
WINDOWS_BYTE = 2**30
"""Which byte Windows locks: one beyond the content, which others then can read."""
SAYING = 20
"""How often the content is looked for while its owner, who has just taken the lock, is about to write it."""


@contextmanager
def locked(folder: Path, what: str, name: str = LOCK_FILE) -> Iterator[bool]:
    """Hold the lock of a folder that exists. Gives False where the drive has none, and goes on without.

    what: is done there, for the message to the second one. name: of the lock's file; locks of other names do not
    exclude each other. Raises `HartError` that names the process which holds it. A file that a killed process left
    holds nobody up.
    """
    path = folder / name
    handle, has_lock = _taken(path, what)
    try:
        if has_lock:
            facts = {"process": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(facts).encode())
        yield has_lock
    finally:
        # before it is let go, so that nobody else's is removed; Windows removes no open file
        if sys.platform != "win32":
            path.unlink(missing_ok=True)
        os.close(handle)


def _taken(path: Path, what: str) -> tuple[int, bool]:
    """The open file, and whether it is locked."""
    while True:
        handle = _opened(path)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno not in HELD:
                return handle, False
            who = _holder(path)
            os.close(handle)
            raise HartError(f"{path.parent}: {what} goes on there already, by {who}: wait for it or end it") from None
        # its last owner may have removed it after it was opened here: then it locks nothing
        with suppress(FileNotFoundError):
            if sys.platform == "win32" or os.path.samestat(os.fstat(handle), path.stat()):
                return handle, True
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        # neither waiting for a FIFO nor following a link that somebody put there
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        raise HartError(f"{path}: cannot be opened as a lock ({error.strerror}): remove it") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise HartError(f"{path}: is no regular file: remove it")
    return handle


def _lock(handle: int) -> None:
    """Raises `OSError` at once where another process has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, WINDOWS_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    for _ in range(SAYING):
        with suppress(OSError, ValueError, TypeError, KeyError):
            facts = json.loads(path.read_bytes()[:1000])
            since = datetime.fromisoformat(facts["since"]).astimezone()
            return f"process {int(facts['process'])} on {facts['host']} since {since:%Y-%m-%d %H:%M:%S}"
        time.sleep(0.05)
    return "another process"
