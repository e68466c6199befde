"""Reports of a part's process to the one that started it: a JSON line when each measurement begins and ends."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

import torch

from hart.devices import is_out_of_memory

BROKEN_DEVICE = 3
"""Exit status when a GPU no longer responds: another process can make the remaining measurements."""
HANGING = 120.0
"""Seconds that every measurement may take, whatever its share: compiling takes one or two minutes."""
Row = dict[str, Any]


def report_stream() -> TextIO:
    """Return standard output, reserved for reports: from now on, prints go to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


@dataclass
class Cells:
    """Runs the measurements of a part in order and reports each as soon as it is done.

    seconds: the part's time. done: keys of measurements that an earlier process of this part has begun.
    """

    device: torch.device
    seconds: float
    stream: TextIO
    done: Collection[str] = ()
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def fact(self, name: str, value: Any) -> None:
        """Report something that belongs to the part as a whole."""
        self._tell(fact=name, value=value)

    def cell(self, key: str, work: Callable[[], Row], *, limit: float, least: float = 2.0) -> None:
        """Run a measurement and report what it returns, or how it failed.

        limit: seconds after which it counts as hanging. least: it does not begin with fewer seconds left.
        """
        if key in self.done:
            return
        if self.left < least:
            self._tell(row=key, values={"error": f"left out: {max(self.left, 0):.0f} s of the part's time were left"})
            return
        self._tell(begin=key, limit=limit)
        start = time.monotonic()
        broken = False
        try:
            values = work()
        except Exception as error:
            traceback.print_exc()
            values = {"error": "out of memory" if is_out_of_memory(error) else one_line(error)}
            broken = self._broken()
        self._tell(row=key, values=values | {"took_s": round(time.monotonic() - start, 2)})
        if broken:
            sys.stderr.write("the device is broken: this process ends\n")
            sys.stderr.flush()
            os._exit(BROKEN_DEVICE)
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def share(self, works: Mapping[str, Callable[[float], Row]], *, least: float) -> None:
        """Make measurements that share the time left: each gets its seconds, and what it does not use goes to others.

        least: none begins with fewer seconds left.
        """
        for place, (key, work) in enumerate(works.items()):
            seconds = max(self.left / (len(works) - place), 5.0)
            self.cell(key, partial(work, seconds), limit=max(3 * seconds, HANGING), least=least)

    def _broken(self) -> bool:
        if self.device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize()
            torch.ones(8, device=self.device).sum().item()
        except Exception as error:
            return not is_out_of_memory(error)
        return False

    def _tell(self, **message: Any) -> None:
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()


def one_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
