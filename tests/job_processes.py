"""Workers of a job that come to harm, for processes that tests start."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hart.commands.jobs import running
from hart.commands.jobs.job import Job
from hart.commands.jobs.workers import by_workers, serve
from processes import begin_ray

VICTIM = 1
"""Number of the image at which something happens, when it is generated and not in its place yet."""


def _at_the_victim(happens: Callable[[], object], folder: Path, job: Job) -> None:
    from hart.commands.jobs import job as work

    rename = work.rename_to_new  # type: ignore[attr-defined]

    def harmed(temporary: Path, path: Path) -> None:
        if path.name == job.name(VICTIM):
            happens()
        rename(temporary, path)

    work.rename_to_new = harmed  # type: ignore[attr-defined]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        _die()


def killed_once(folder: Path, job: Job, parent: Connection) -> None:
    """The first worker that generates the victim is killed."""
    _at_the_victim(lambda: _die_once(folder.parent / "killed"), folder, job)
    serve(folder, job, parent)


def killed_always(folder: Path, job: Job, parent: Connection) -> None:
    """Every worker that generates the victim is killed."""
    _at_the_victim(_die, folder, job)
    serve(folder, job, parent)


def stuck(folder: Path, job: Job, parent: Connection) -> None:
    """The worker that generates the victim does nothing any more."""
    _at_the_victim(lambda: threading.Event().wait(), folder, job)
    serve(folder, job, parent)


def killed_at_start(folder: Path, job: Job, parent: Connection) -> None:
    _die()


def stuck_command(arguments: list[str], errors: str) -> None:
    """The command `hart` with workers that are stuck, in a process group of its own. errors: what it says there."""
    from hart.cli import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have their background processes ignore it
    for handle, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), handle)
    running.by_workers = partial(by_workers, work=stuck)  # type: ignore[attr-defined]
    sys.argv[1:] = arguments
    main()


def on_a_cluster() -> None:
    """The command `hart` with workers of Ray of which one is killed."""
    import ray

    from hart.cli import main
    from hart.commands.jobs import ray_data

    class Killed(ray_data.RayGenerator):
        def __init__(self, folder: Path, job: Job, *others: Any) -> None:
            super().__init__(folder, job, *others)
            _at_the_victim(lambda: _die_once(folder.parent / "killed"), folder, job)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import it
    ray_data.RayGenerator = Killed  # type: ignore[assignment, misc]
    begin_ray()
    main()
