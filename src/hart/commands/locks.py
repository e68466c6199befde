"""One process at a time in a folder: an operating system lock, which ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from hart.errors import HartError
from hart.strict import clipped

LOCK_FILE = ".hart-lock"
HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
"""Errors for a lock that another process holds; any other error means a drive without locks."""
WINDOWS_BYTE = 2**30
"""The byte that Windows locks: beyond the content, so that others can still read that."""


@contextmanager
def locked(folder: Path, what: str, name: str = LOCK_FILE) -> Iterator[bool]:
    """Hold the lock of an existing folder. Gives False on a drive without locks.

    what: the activity there, for the error of a second process. name: of the lock's file; locks with different names do
    not exclude each other. Raises `HartError` naming the process that holds it. The file of a killed process blocks
    nobody.
    """
    path = folder / name
    handle, has_lock = _taken(path, what)
    try:
        if has_lock:
            who, since = f"process {os.getpid()} on {socket.gethostname()}", datetime.now().astimezone()
            try:
                os.ftruncate(handle, 0)
                os.write(handle, f"{who} since {since:%Y-%m-%d %H:%M:%S %Z}".encode())
            except OSError as error:
                raise HartError(f"{path}: cannot be written ({error.strerror}): make room and run again") from None
        yield has_lock
    finally:
        # before the lock is released, so that nobody else's file is removed
        if sys.platform != "win32":
            path.unlink(missing_ok=True)
        os.close(handle)
        if sys.platform == "win32":  # it cannot remove an open file: if that fails, the file is now somebody else's
            with suppress(OSError):
                path.unlink()


def _taken(path: Path, what: str) -> tuple[int, bool]:
    """Return the open file, and whether it is locked."""
    # neither wait for a FIFO nor follow a link that somebody put there
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            handle = os.open(path, flags, 0o666)
        except OSError as error:
            raise HartError(f"{path}: cannot be opened as a lock ({error.strerror}): remove it") from None
        try:
            _lock(handle)
        except OSError as error:
            if error.errno not in HELD:
                return handle, False
            os.lseek(handle, 0, os.SEEK_SET)
            # one that has just taken it has not written who it is yet
            who = clipped(os.read(handle, 1000).decode(errors="replace")) or "another process"
            os.close(handle)
            raise HartError(f"{path.parent}: {what} is already running there, by {who}: wait or stop it") from None
        # its last owner may have removed the file after it was opened here: then the lock has no effect
        with suppress(FileNotFoundError):
            if sys.platform == "win32" or os.path.samestat(os.fstat(handle), path.stat()):
                return handle, True
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock the file. Raises `OSError` at once if another process has the lock."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, WINDOWS_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
