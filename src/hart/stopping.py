"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): work ends in order at the first signal, and at once at a second
one, except a second SIGHUP, since shells send it twice.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

HANGUP: int | None = getattr(signal, "SIGHUP", None)
SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if HANGUP is None else (HANGUP,)))
SHOW_CURSOR = b"\x1b[?25h"
"""Progress bars hide the cursor; after a second signal nothing else would show it again."""
HEARD = b"\nstopping; a second signal ends at once\n" + SHOW_CURSOR


@contextmanager
def handled(signals: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` have signals in a block; only in the main thread, which alone can handle them.

    Under nohup a closed terminal stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in signals if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            # None: not set from Python
            signal.signal(number, signal.SIG_DFL if former is None else former)


def end_at_the_next(signals: Sequence[int]) -> None:
    """From now on, end the process at once at one of these signals; a closed terminal has no further effect."""
    for known in signals:
        signal.signal(known, signal.SIG_IGN if known == HANGUP else signal.SIG_DFL)


@contextmanager
def second_ends_at_once() -> Iterator[None]:
    """In a block, let the second of `SIGNALS` (except a closed terminal's) end the process even while an operation of
    minutes keeps Python from handling the first. On a terminal a line says so if the block goes on for a second. Only
    works in the main thread, like `handled`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received, numbers = socket.socketpair()
    numbers.setblocking(False)
    former = signal.set_wakeup_fd(numbers.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(received,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        numbers.shutdown(socket.SHUT_WR)  # closing alone is no end of file if a forked process holds it too
        watcher.join()
        numbers.close()
        received.close()


def _watch(received: socket.socket) -> None:
    """Read the numbers of signals, a byte each, which the interpreter writes as they arrive."""
    heard = False
    while True:
        try:
            number = received.recv(1)
        except TimeoutError:
            _to_terminal(HEARD)
            received.settimeout(None)
            continue
        if not number:
            return
        if number[0] not in SIGNALS:
            continue
        if heard and number[0] != HANGUP:
            _to_terminal(SHOW_CURSOR)
            os._exit(128 + number[0])
        heard = True
        received.settimeout(1)


def _to_terminal(text: bytes) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        with suppress(OSError):  # the terminal is gone
            os.write(sys.stderr.fileno(), text)


def leave_to_the_parent() -> None:
    """For a child process: Ctrl-C and a closed terminal reach both processes, but only the parent decides what to do;
    it ends this one by SIGTERM. A forked process would otherwise keep the parent's handlers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


class StopSignal:
    """Listens for `SIGNALS` in a training run, which ends after the current step. number: of the signal received, or
    None."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._waiting = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handle the signals in a block."""
        with second_ends_at_once(), handled(SIGNALS, self._hear):
            yield

    def unless_stopped(self, wait: Callable[[], T]) -> T | None:
        """Return the result of `wait`; None if a signal comes before or meanwhile, since the data may never come."""
        try:
            self._waiting = True
            if self.number is not None:
                return None
            result = wait()
            self._waiting = False
            return result
        except _GivenUp:
            return None
        finally:
            self._waiting = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        end_at_the_next(SIGNALS)
        if sys.platform != "win32":
            # reader processes may end at the same signal, for which torch would raise at any point
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._waiting:
            self._waiting = False
            raise _GivenUp


class _GivenUp(BaseException):
    """Ends the wait of `StopSignal.unless_stopped`."""
