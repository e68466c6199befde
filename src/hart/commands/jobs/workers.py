"""Processes on this machine that share a job: each opens the model once and is given one batch after the other.

If a worker dies, its batch goes to another worker, and it is replaced. Only the parent handles Ctrl-C, SIGTERM and a
closed terminal; workers end with it, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from hart.commands.console import notes_to, prompt_notes
from hart.commands.jobs.job import BatchGenerator, Job
from hart.errors import HartError
from hart.stopping import leave_to_the_parent

CONTEXT = multiprocessing.get_context("spawn")
MOST_FAILED_STARTS = 3
PATIENCE = 5.0
"""Seconds that a worker has to end in order."""

Work = Callable[[Path, Job, Connection], None]


@dataclass(frozen=True)
class Finished:
    """A finished batch. names: of the files that were missing; None if too many processes died on it. remarks: what the
    user should know, each time that a process encounters it."""

    batch: range
    names: list[str] | None
    remarks: Sequence[str] = ()


OPENED = "opened"
"""Message that a worker sends when it has opened the model."""


def serve(folder: Path, job: Job, parent: Connection) -> None:
    """Do the work of a worker: open the model, then generate what the parent gives."""
    remarks = list[str]()
    with notes_to(remarks.append), prompt_notes():
        generator = BatchGenerator(folder, job)
        parent.send(OPENED)
        while (given := parent.recv()) is not None:
            batch, missing = given
            parent.send(Finished(batch, generator.generate(batch, missing), remarks))
            remarks.clear()


def _process(work: Work, folder: Path, job: Job, parent: Connection, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)  # PyTorch is not imported yet
    leave_to_the_parent()
    tqdm.set_lock(threading.RLock())  # its own belongs to the system, and would outlast a killed process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(folder, job, parent)
    except (EOFError, ConnectionError):  # the parent is gone
        return
    except Exception as error:
        error.add_note(traceback.format_exc())
        parent.send(error)


def _end_with_parent() -> None:
    above = multiprocessing.parent_process()
    assert above is not None
    wait([above.sentinel])
    os._exit(1)


Task = tuple[range, list[int]]
"""A batch, and those of its images that are missing."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    environment: Mapping[str, str]
    opened: bool = False
    task: Task | None = None


def by_workers(
    folder: Path, job: Job, tasks: Sequence[Task], environments: Sequence[Mapping[str, str]], work: Work = serve
) -> Generator[Finished, None, None]:
    """Do all tasks in as many processes as there are environments, each with its own, e.g. the GPU that it sees.

    When this iterator is closed, no worker is left. work: what a process does; see `serve`.
    Raises what a worker raises, and `HartError` if workers die while they open the model.
    """
    pending, left, failed_starts = deque(tasks), len(tasks), 0
    running: dict[Any, _Worker] = {}  # by the connection to each

    def start(environment: Mapping[str, str]) -> None:
        ours, theirs = CONTEXT.Pipe()
        arguments = work, folder, job, theirs, environment
        process = CONTEXT.Process(target=_process, args=arguments, daemon=True)
        process.start()
        theirs.close()
        running[ours] = _Worker(process, environment)

    def replace(dead: Any) -> None:
        nonlocal failed_starts
        worker = running.pop(dead)
        worker.process.join()
        failed_starts += not worker.opened
        if worker.task is not None:
            pending.appendleft(worker.task)
        if pending and failed_starts < MOST_FAILED_STARTS:
            start(worker.environment)
        if not running:
            raise HartError(
                f"{MOST_FAILED_STARTS} workers ended while they opened the model (exit code "
                f"{worker.process.exitcode}): is there memory for {len(environments)}? Give fewer --workers"
            ) from None

    try:
        for environment in environments[:left]:
            start(environment)
        while left:
            # not forever: a signal that comes right before the wait is only handled when it ends
            ready: list[Any] = wait(list(running), timeout=1)
            for connection in ready:
                worker = running[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):  # it died
                    replace(connection)
                    continue
                if isinstance(message, Exception):
                    raise message
                if message == OPENED:
                    worker.opened, failed_starts = True, 0
                    continue
                worker.task, left = None, left - 1
                yield message
            for connection, worker in running.items():
                if worker.opened and worker.task is None and pending:
                    worker.task = pending.popleft()
                    with suppress(OSError):  # it has just died, which its connection will report
                        connection.send(worker.task)
    finally:
        _end(running, in_order=not left)


def _end(running: Mapping[Any, _Worker], *, in_order: bool) -> None:
    for connection, worker in running.items():
        with suppress(OSError):
            connection.send(None)
        if not in_order:
            worker.process.terminate()
    for worker in running.values():
        worker.process.join(PATIENCE)
        worker.process.kill()
        worker.process.join()
