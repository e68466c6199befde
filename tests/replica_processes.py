"""`hart serve --ray` as a process, of which the first replica that draws the victim is killed at its third message."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from processes import begin_ray

VICTIM = 7
"""A seed."""
DEATH = 3
"""Message of the answer to the victim that is never sent."""
MARK = "KILLED_MARK"
"""Variable with the path of a file that is there once a replica was killed."""


def main() -> None:
    from hart.cli import main
    from hart.serving import replicas

    class Killed(replicas.Replica):
        async def answer(self, scope: Any, body: bytes) -> AsyncIterator[Any]:
            sent = 0
            async for message in super().answer(scope, body):
                sent += 1
                mark = Path(os.environ[MARK])
                if body and sent == DEATH and json.loads(body)["seed"] == VICTIM and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield message

    replicas.Replica = Killed  # type: ignore[misc]
    begin_ray()
    main()
