"""Measures what this project does on a GPU, by one command on a bare machine.

    PYTHONPATH=src python benchmarks/gpu.py --minutes 5 --out DIR

Three parts, each in its own process and with its own share of the time: correctness (golden numbers and the
checks of `tests/test_devices.py`, in float32 and bfloat16), generation (the 0.7B model with random weights: latency,
images per second, time over floor by part, memory) and training (steps of its recipes: tokens per second, MFU).
`gpu.json` and `gpu.md` are written again after every measurement, so that an interrupted run loses at most one. A
measurement that fails is reported with its error, and the next one runs; `gpu.log` has the output of the parts.

Needs torch, numpy, pillow, safetensors, tokenizers, transformers, accelerate and rich. On a CPU, and with `--tiny`,
tiny models replace the large one, to test the program.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from gpu_parts.cells import Cells, report_stream
from gpu_parts.machine import clocks, machine
from gpu_parts.report import markdown

from hart.devices import resolve_device
from hart.errors import HartError
from hart.files import write_json, write_text

SHARES = {"correctness": 0.25, "generation": 0.45, "training": 0.3}
"""The parts in order, with their shares of the time; time that a part does not use goes to the next."""
GRACE = 0.1
"""Share of a part's time that is reserved for the measurement still running when its time is over."""
LOG_LINES = 15


@dataclass
class Part:
    """What the processes of a part have reported so far."""

    outcome: str = "not begun"
    seconds: float = 0.0
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    stderr: list[str] = field(default_factory=list)


class Run:
    """All parts, and the files that record their progress."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self.parsed = parsed
        self.out: Path = parsed.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + 60 * parsed.minutes
        self.device = resolve_device(parsed.device)
        self.tiny = parsed.tiny or self.device.type == "cpu"
        self.machine = machine(self.device, parsed.commit)
        self.parts = {name: Part() for name in parsed.parts}

    def write(self) -> None:
        state = {
            "title": f"{'Tiny models' if self.tiny else '0.7B'} on {self.machine.get('GPU', self.device.type)}",
            "machine": self.machine,
            "command": shlex.join(["python", "benchmarks/gpu.py", *self.parsed.arguments]),
            "minutes": self.parsed.minutes,
            "parts": {name: vars(part) for name, part in self.parts.items()},
        }
        write_json(self.out / "gpu.json", state)
        write_text(self.out / "gpu.md", markdown(state))

    def run(self) -> None:
        self.write()
        names = list(self.parts)
        for place, name in enumerate(names):
            left = self.end - time.monotonic()
            self.run_part(name, left * SHARES[name] / sum(SHARES[other] for other in names[place:]))
        if after := clocks():
            self.machine["clocks at the end"] = ", ".join(f"{key} {value}" for key, value in after.items())
        self.write()

    def run_part(self, name: str, seconds: float) -> None:
        """Run processes of a part, a new one where one died, until all is measured or the time is over."""
        part, start = self.parts[name], time.monotonic()
        part.outcome = "running"
        end = start + seconds
        while True:
            began = len(part.rows)
            status = self._process(name, part, end)
            part.seconds = time.monotonic() - start
            part.outcome = "done" if status == 0 else f"ended with status {status}" if status is not None else "cut"
            self.write()
            again = status not in (0, None) or (status is None and time.monotonic() < end - 5)
            if not again or len(part.rows) == began:
                return

    def _process(self, name: str, part: Part, end: float) -> int | None:
        """Run one process; its exit status, or None if it was stopped at `end` or because a measurement hung."""
        seconds = max(end - time.monotonic(), 1.0)
        command = [sys.executable, __file__, "--part", name, "--seconds", f"{seconds * (1 - GRACE):.1f}"]
        command += ["--device", self.device.type, *(["--tiny"] if self.tiny else []), "--done", *part.rows]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        log_path = self.out / "gpu.log"
        with log_path.open("ab") as log:
            log.write(f"--- {name}\n".encode())
            log.flush()
            log_start = log.tell()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, process_group=0)
            status = self._follow(process, part, end)
        if status != 0:
            part.stderr = _last_lines(log_path, log_start)
        return status

    def _follow(self, process: subprocess.Popen[bytes], part: Part, end: float) -> int | None:
        assert process.stdout is not None
        begun, limit, stopped = "", end, threading.Event()

        def stop() -> None:
            stopped.set()
            _kill(process)

        def watched() -> threading.Timer:
            timer = threading.Timer(min(limit, end) - time.monotonic(), stop)
            timer.daemon = True
            timer.start()
            return timer

        timer = watched()
        with process.stdout as lines:
            for line in lines:
                if stopped.is_set():  # what it was writing may break off
                    break
                timer.cancel()
                message = json.loads(line)
                if "begin" in message:
                    begun, limit = message["begin"], time.monotonic() + message["limit"]
                elif "row" in message:
                    part.rows[message["row"]] = message["values"]
                    begun, limit = "", end
                else:
                    part.facts[message["fact"]] = message["value"]
                timer = watched()
                self.write()
        timer.cancel()
        status = process.wait()
        if begun:
            said = "stopped: its time was over" if stopped.is_set() else f"the process died with status {status}"
            part.rows[begun] = {"error": said}
        return None if stopped.is_set() else status


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_lines(path: Path, start: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return [line[:300] for line in text.splitlines() if line.strip()][-LOG_LINES:]


def run_part(parsed: argparse.Namespace, stream: TextIO) -> None:
    """Do the work of a part, in its own process."""
    device = resolve_device(parsed.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    # imported here, so that a failing import of one part does not stop the others
    part = importlib.import_module(f"gpu_parts.{parsed.part}")
    part.run(Cells(device, parsed.seconds, stream, frozenset(parsed.done)), tiny=parsed.tiny)


def summary(parts: Mapping[str, Part]) -> str:
    return "\n".join(
        f"{name}: {part.outcome}, {part.seconds:.0f} s, {len(part.rows)} measurements, "
        f"{sum('error' in row for row in part.rows.values())} of them failed or left out"
        for name, part in parts.items()
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all parts together")
    parser.add_argument("--out", type=Path, help="folder for gpu.json, gpu.md and gpu.log")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the program")
    parser.add_argument("--tiny", action="store_true", help="tiny models instead of the 0.7B model; always on a CPU")
    parser.add_argument("--commit", default="", help="the commit that runs, for a copy without git")
    parser.add_argument("--part", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--done", nargs="*", default=[], help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.part is None and parsed.out is None:
        parser.error("--out is missing")
    parsed.arguments = arguments
    return parsed


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    if parsed.part is not None:
        run_part(parsed, report_stream())
        return
    try:
        run = Run(parsed)
    except HartError as error:
        raise SystemExit(f"{error}: --device cpu tries the program with tiny models") from None
    run.run()
    sys.stdout.write(f"{summary(run.parts)}\n{run.out / 'gpu.md'}\n")


if __name__ == "__main__":
    main()
