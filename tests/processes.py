"""Processes of the tests' own, which start with everything heavy imported already."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import TextIO

from hart.stopping import second_ends_at_once
from waiting import PATIENCE

CONTEXT = multiprocessing.get_context("forkserver")
# the compiler is imported by the first optimiser
CONTEXT.set_forkserver_preload(["hart.training.dry_run", "hart.training.encoding", "hart.pipeline", "torch._dynamo"])


# by default Ray's workers come after everything else that the machine does, and more are started than are needed; on a
# machine that is busy they take longer to begin, and its nodes to answer, than Ray waits
ON_RAY = {
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_num_prestart_python_workers": "0",
    "RAY_worker_register_timeout_seconds": f"{PATIENCE:.0f}",
    "RAY_gcs_server_request_timeout_seconds": f"{PATIENCE:.0f}",
    "RAY_agent_register_timeout_ms": f"{1000 * PATIENCE:.0f}",
    "RAY_health_check_timeout_ms": f"{1000 * PATIENCE:.0f}",
}


NO_CLUSTER = 77
"""Exit code of a command without one."""


def begin_ray() -> None:
    """Starts the cluster that the command of this process then uses, or ends the process. Ray gives the parts of a
    cluster some thirty seconds to find each other, which no setting changes: a busy machine may need several tries."""
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    for _ in range(3):
        with suppress(Exception), redirect_stdout(sys.stderr):  # of no class of its own
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            signal.signal(signal.SIGTERM, on_sigterm)
            return
    sys.exit(NO_CLUSTER)


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


def with_patience() -> None:
    """The same that waits longer for the rest of a request than any test takes."""
    from hart.serving import bodies

    bodies.BODY_SECONDS = 2 * PATIENCE
    hart()


def exit_code(target: Callable[..., None], *arguments: object) -> int | None:
    """Of a process that does nothing else, negative if it is a signal's."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join(PATIENCE)
    return process.exitcode


def hear_in_one_operation(*numbers: int) -> None:
    """Signals that come during one long operation, as at the decoder of thousands of pixels."""

    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    for number in numbers:
        signal.signal(number, lambda *_: None)
    with second_ends_at_once():
        threading.Thread(target=send).start()
        # takes hours
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


@dataclass
class Command:
    """A running command. said: what it writes to its standard streams, as far as these are listened to."""

    process: ForkServerProcess
    said: list[TextIO]

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int | None:
        """Its exit code, negative if it is a signal's; None if it does not end."""
        self.process.join(PATIENCE)
        return self.process.exitcode


def require_ray(command: Command) -> None:
    """Of a command that has said nothing: skips the test where Ray cannot begin."""
    import pytest

    if command.wait() == NO_CLUSTER:
        pytest.skip("Ray cannot start a cluster: this machine is too busy")


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
