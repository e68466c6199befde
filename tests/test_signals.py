"""Signals while the interpreter waits for an operation, as for a decoder at thousands of pixels."""

from __future__ import annotations

import signal
import threading

import pytest

from hart.stopping import second_ends_at_once
from processes import exit_code, hear_in_one_operation


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs signals of POSIX")
def test_a_second_signal_ends_a_long_operation() -> None:
    # different ones, since two of a kind may come as one
    assert exit_code(hear_in_one_operation, signal.SIGTERM, signal.SIGINT) in (
        128 + signal.SIGINT,
        128 + signal.SIGTERM,
    )


def test_signals_that_came_one_by_one_leave_nothing_behind() -> None:
    threads, heard = threading.active_count(), []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        for _ in range(2):
            with second_ends_at_once():
                signal.raise_signal(signal.SIGTERM)
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] * 2
    assert threading.active_count() == threads
