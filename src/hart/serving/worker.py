"""The threads of a server beside its event loop: one samples, others read orders. What of an error may be logged."""

from __future__ import annotations

import logging
import threading
import traceback
from concurrent.futures import Executor
from functools import cache
from typing import NamedTuple

from hart.serving.scheduler import Scheduler

log = logging.getLogger(__name__)

ORDERS_AT_ONCE = 8
"""Requests without an image whose prompts are read and judged at the same time."""
LAYOUTS_AT_ONCE = 2
"""Requests whose images are decoded at the same time, which takes some 400 MB where they are as large as may be."""


class Worker:
    """The thread that steps a scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._news = threading.Event()
        self._stopping = False
        scheduler.wake = self._news.set
        self._thread = threading.Thread(target=self._run, name="hart-sampling", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what was accepted, then end. Waits for that."""
        self._stopping = True
        self._scheduler.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._news.clear()
                seconds = self._scheduler.step()
                if seconds is None and self._stopping:
                    return
                if seconds != 0:
                    self._news.wait(seconds)
        except BaseException as error:
            log.error("sampling has ended by a %s:\n%s", type(error).__name__, where(error))
            self._scheduler.abandon()


def where(error: BaseException) -> str:
    """The lines of code that an error came through, without its message, which may hold what a client sent."""
    return "".join(traceback.format_tb(error.__traceback__))


class OrderThreads(NamedTuple):
    """In which requests become orders, which may compute."""

    without_image: Executor
    with_image: Executor


_beginning = threading.Lock()


def order_threads() -> OrderThreads:
    """Begun once, before any model is open: see `hart.inference.threads.single_threads`, which also raises."""
    with _beginning:
        return _order_threads()


@cache
def _order_threads() -> OrderThreads:
    from hart.inference.threads import single_threads  # PyTorch, which takes a while

    return OrderThreads(single_threads(ORDERS_AT_ONCE, "hart-order"), single_threads(LAYOUTS_AT_ONCE, "hart-layout"))
