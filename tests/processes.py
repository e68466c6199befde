"""Processes of the tests' own, which start with everything heavy imported already."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import TextIO

CONTEXT = multiprocessing.get_context("forkserver")
# the compiler is imported by the first optimiser
CONTEXT.set_forkserver_preload(["hart.training.dry_run", "hart.training.encoding", "hart.pipeline", "torch._dynamo"])


# by default Ray's workers come after everything else that the machine does, and more are started than are needed
ON_RAY = {"RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0", "RAY_num_prestart_python_workers": "0"}


def hart() -> None:
    """The command itself."""
    from hart.cli import main

    main()


def without_room() -> None:
    """The same with a disk to which nothing can be written."""
    tempfile.gettempdir()  # a library tries to write there when it is imported
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    hart()


def with_few_files() -> None:
    """The same where a process begins with few open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hart()


def exit_code(target: Callable[..., None], *arguments: object) -> int | None:
    """Of a process that does nothing else, negative if it is a signal's."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join(600)
    return process.exitcode


@dataclass
class Command:
    """A running command. said: what it writes to its standard streams, as far as these are listened to."""

    process: ForkServerProcess
    said: list[TextIO]

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative if it is a signal's; None if it has not ended."""
        self.process.join(seconds)
        return self.process.exitcode


@contextmanager
def started(
    *arguments: object, main: Callable[[], None] = hart, streams: tuple[int, ...] = (1,), **environment: str
) -> Iterator[Command]:
    """A command, killed in the end. main: what runs it, known by name. streams: 1 and 2, those to listen to."""
    pipes = [CONTEXT.Pipe(duplex=False) for _ in streams]
    given = (
        main,
        list(map(str, arguments)),
        environment,
        dict(zip(streams, (write for _, write in pipes), strict=True)),
    )
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    for _, write in pipes:
        write.close()
    with ExitStack() as stack:
        said = [stack.enter_context(os.fdopen(os.dup(read.fileno()), encoding="utf-8")) for read, _ in pipes]
        try:
            yield Command(process, said)
        finally:
            process.kill()
            process.join()


def _run(
    main: Callable[[], None], arguments: list[str], environment: dict[str, str], streams: dict[int, Connection]
) -> None:
    for handle, stream in streams.items():
        os.dup2(stream.fileno(), handle)
        stream.close()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    main()
