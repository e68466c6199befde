"""Processes of this machine that share a job: each opens the model once and is given one batch after the other.

A worker that dies has its batch given to another, and is replaced. The parent alone hears Ctrl-C and SIGTERM; workers
end with it, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm  # type: ignore[import-untyped]

from hart.commands.console import prompt_notes
from hart.commands.jobs.job import Job, JobFolder
from hart.errors import HartError

if TYPE_CHECKING:
    from hart.generation.metadata import ImageSettings
    from hart.sizes import ImageSize

CONTEXT = multiprocessing.get_context("spawn")
MOST_FAILED_STARTS = 3
PATIENCE = 5.0
"""Seconds that a worker has to end in order."""

Work = Callable[[Path, Job, "ImageSettings | None", Connection], None]


@dataclass(frozen=True)
class Opened:
    """The model is open. size: of the images. remark: what the user should know about it."""

    size: ImageSize
    remark: str | None


@dataclass(frozen=True)
class Finished:
    """A batch is done. names: of the files that were missing; None if too many processes died of it."""

    batch: range
    names: list[str] | None


def serve(folder: Path, job: Job, expected: ImageSettings | None, parent: Connection) -> None:
    """The work of a worker: open the model, then generate what the parent gives. expected: see `BatchGenerator`."""
    from hart.commands.jobs.generating import BatchGenerator

    with prompt_notes():
        generator = BatchGenerator(folder, job, expected)
        parent.send(Opened(generator.size, generator.remark))
        while (given := parent.recv()) is not None:
            batch, missing = given
            parent.send(Finished(batch, generator.generate(batch, missing)))


def _process(
    work: Work,
    folder: Path,
    job: Job,
    expected: ImageSettings | None,
    parent: Connection,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)  # PyTorch is not imported yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is of the system, and would outlast a killed process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(folder, job, expected, parent)
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
    connection: Connection
    environment: Mapping[str, str]
    opened: bool = False
    task: Task | None = None

    def give(self, task: Task | None) -> None:
        """None: there is nothing more to do."""
        self.task = task
        with suppress(OSError):  # it has just died, which its connection will say
            self.connection.send(task)

    def hear(self) -> Opened | Finished | Exception | None:
        """Its next message; None if it died."""
        try:
            message: Opened | Finished | Exception = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message


class Workers:
    """As many processes as there are environments, each with its own, such as the GPU that it sees."""

    def __init__(self, folder: JobFolder, environments: Sequence[Mapping[str, str]], work: Work = serve) -> None:
        """work: what a process does; see `serve`."""
        self._start_arguments = work, folder.path, folder.job, folder.settings
        self._environments = environments
        self._running: list[_Worker] = []
        self._failed_starts = 0

    def generate(self, tasks: Iterable[Task]) -> Iterator[Opened | Finished]:
        """Do all tasks, and say what happens; when this iterator is closed, no worker is left.

        Raises what a worker raises, and `HartError` if workers die while they open the model.
        """
        pending = deque(tasks)
        left = len(pending)
        try:
            for environment in self._environments[:left]:
                self._start(environment)
            while left:
                for worker in self._with_news():
                    message = worker.hear()
                    if message is None:
                        if worker.task is not None:
                            pending.appendleft(worker.task)
                        self._remove(worker)
                        if pending and self._failed_starts < MOST_FAILED_STARTS:
                            self._start(worker.environment)
                        self._require_some(worker)
                        continue
                    if isinstance(message, Exception):
                        raise message
                    if isinstance(message, Opened):
                        worker.opened, self._failed_starts = True, 0
                    else:
                        worker.task, left = None, left - 1
                    yield message
                for worker in self._running:
                    if worker.opened and worker.task is None and pending:
                        worker.give(pending.popleft())
        finally:
            self._end(in_order=not left)

    def _with_news(self) -> list[_Worker]:
        by_connection = {worker.connection: worker for worker in self._running}
        return [by_connection[ready] for ready in wait(list(by_connection)) if isinstance(ready, Connection)]

    def _start(self, environment: Mapping[str, str]) -> None:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_process, args=(*self._start_arguments, theirs, environment), daemon=True)
        process.start()
        theirs.close()
        self._running.append(_Worker(process, ours, environment))

    def _remove(self, worker: _Worker) -> None:
        self._running.remove(worker)
        worker.connection.close()
        worker.process.join()
        self._failed_starts += not worker.opened

    def _require_some(self, last: _Worker) -> None:
        if not self._running:
            raise HartError(
                f"{MOST_FAILED_STARTS} workers ended while they opened the model (exit code {last.process.exitcode}): "
                f"is there memory for {len(self._environments)}? Give fewer --workers"
            )

    def _end(self, *, in_order: bool) -> None:
        for worker in self._running:
            if in_order:
                worker.give(None)
            else:
                worker.process.terminate()
        for worker in self._running:
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._running.clear()
