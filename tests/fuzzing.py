"""Malformed input at random: sound files damaged from a seed, commands run on them, faults counted by kind.

A fault is an exception that is not a refusal, an undocumented exit code, a refusal of more than one line, memory
running out, a hang, or a half-written file. `PYTHONPATH=src python tests/fuzzing.py --minutes 60`
runs for long; `--only VICTIM:NUMBER` repeats one trial and shows its traceback.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from command_line import run
from hart.files import PARTIAL
from models import save_tiny_text_model
from mutations import damage_file
from victims import SEARCHED, VICTIMS

LONGEST = 60
"""Seconds after which a command is taken to hang. Sound ones need less than one."""
MEMORY = 12 * 2**30
"""Bytes of address space of the process."""


@dataclass(frozen=True)
class Trial:
    """What was damaged, what was run, and what was wrong with it; an empty `fault` is a pass."""

    name: str
    what: str
    command: str
    fault: str
    refused: str


class Hang(BaseException):
    """A command that does not end."""


@contextmanager
def _limited(seconds: int | None) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds or 0)
    try:
        yield
    finally:
        signal.alarm(0)


class Fuzzer:
    """Makes the victims once, in `folder`. longest: seconds after which a command is taken to hang; None waits."""

    def __init__(self, folder: Path, longest: int | None = None) -> None:
        self.folder = folder
        self._longest = longest
        self.model = save_tiny_text_model(folder / "sound-model")
        self._made: dict[str, Path] = {}

    def trial(self, victim: str, number: int) -> Trial:
        """One damaged copy and one command."""
        kind = VICTIMS[victim]
        rng = random.Random(f"{victim}:{number}")
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._sound(victim), copy, symlinks=True)
        files = sorted({path for pattern in SEARCHED for path in copy.rglob(pattern)})
        what = []
        for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2)))):
            what.append(f"{path.relative_to(copy)}: {damage_file(path, rng)}")
        command = rng.choice(kind.commands)
        arguments = [word.replace("{}", str(copy)).replace("{model}", str(self.model)) for word in command.split()]
        fault, refused = _faults(arguments, copy, self._longest)
        return Trial(f"{victim}:{number}", "; ".join(what), command, fault, refused)

    def _sound(self, victim: str) -> Path:
        if victim not in self._made:
            place = self.folder / victim
            place.mkdir()
            VICTIMS[victim].make(place, self.model)
            self._made[victim] = place
        return self._made[victim]


def _faults(arguments: list[str], copy: Path, longest: int | None) -> tuple[str, str]:
    """What is wrong with how a command takes its input, and the line in which it refuses it."""
    try:
        with _limited(longest):
            result = run(*arguments)
    except Hang:
        return "hang", ""
    error = result.exception
    if isinstance(error, Hang):
        return "hang", ""
    if error is not None and not isinstance(error, SystemExit):
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/hart/" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} " if ours else ""
        return f"{type(error).__name__} at {where}({Path(place.filename).name}): {str(error)[:100]}", ""
    left = [path.name for path in copy.rglob(f"*{PARTIAL}")]
    if left:
        return f"half-written: {left[0]}", ""
    if result.exit_code == 0:
        return "", ""
    if result.exit_code != 2:
        return f"exit code {result.exit_code}", ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or "Traceback" in result.stderr:
        return f"no single line: {result.stderr[-200:]!r}", ""
    if "out of memory" in lines[0]:
        return f"memory: {lines[0]}", ""
    return "", lines[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--victims", default=",".join(VICTIMS))
    parser.add_argument("--only", help="VICTIM:NUMBER")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), LONGEST)
        if given.only:
            victim, number = given.only.split(":")
            print(fuzzer.trial(victim, int(number)))  # noqa: T201
            return
        names, faults, refusals = given.victims.split(","), Counter[str](), Counter[str]()
        end, done = time.monotonic() + 60 * given.minutes, 0
        while time.monotonic() < end:
            trial = fuzzer.trial(names[done % len(names)], given.first + done // len(names))
            done += 1
            refusals[trial.name.split(":")[0]] += bool(trial.refused)
            if trial.fault:
                faults[trial.fault] += 1
                if faults[trial.fault] == 1:
                    print(f"{trial.name} {trial.what} | {trial.command}\n    {trial.fault}", flush=True)  # noqa: T201
    print(f"{done} trials, {sum(faults.values())} faults of {len(faults)} kinds; refused: {dict(refusals)}")  # noqa: T201
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
