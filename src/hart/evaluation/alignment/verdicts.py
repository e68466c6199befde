"""Verdicts on drawn pictures, one JSON line each, kept so that a stopped run goes on.

A line's `key` is a digest of the picture's bytes, of what was asked of it and of who judged: a verdict is taken over
only where all three are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.report import Progress
from hart.files import atomic_write, open_regular

VERDICTS_FILE = "verdicts.jsonl"

Verdict = dict[str, Any]
"""What a judge says of one picture: JSON values."""


def kept_verdicts(
    file: Path,
    drawn: DrawnPictures,
    asked: Sequence[Mapping[str, Any]],
    judge_facts: Mapping[str, Any],
    judge: Callable[[Sequence[int]], Sequence[Verdict]],
    batch_size: int,
    progress: Progress,
    is_whole: Callable[[Verdict], bool] = lambda verdict: True,
) -> list[Verdict]:
    """A verdict on every picture, in their order; those that `file` has are not made again.

    asked: what each picture should show. judge_facts: all that decides a verdict beside the picture and what was asked.
    judge: verdicts on pictures by number. is_whole: whether a kept verdict has what is read of it; others are made
    again. `file` ends with a line for each picture, in their order.
    """
    base = json.dumps(judge_facts, sort_keys=True)
    keys = [_digest(base, json.dumps(asked[i], sort_keys=True), drawn.path(i).read_bytes()) for i in range(len(drawn))]
    known = {str(line["key"]): line for line in _read(file) if is_whole(line)}
    lines = {i: known[key] for i, key in enumerate(keys) if key in known}
    _write(file, lines)
    missing = [i for i in range(len(drawn)) if i not in lines]
    for start in range(0, len(missing), batch_size):
        progress(len(lines), len(drawn), f"{len(lines)} of {len(drawn)} pictures judged")
        numbers = missing[start : start + batch_size]
        new = {
            number: {"key": keys[number], "picture": drawn.path(number).name, **verdict}
            for number, verdict in zip(numbers, judge(numbers), strict=True)
        }
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(_line(line) for line in new.values())
        lines |= new
    if missing:
        _write(file, lines)
    return [lines[i] for i in range(len(drawn))]


def _digest(base: str, asked: str, picture: bytes) -> str:
    digest = hashlib.sha256()
    for part in (base.encode(), asked.encode(), picture):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:32]


def _read(file: Path) -> list[Verdict]:
    """Whole lines only: a run that was killed may have left half of one."""
    lines = []
    if file.exists():
        with open_regular(file) as stream:
            texts = stream.readlines()
        for text in texts:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and "key" in line:
                lines.append(line)
    return lines


def _write(file: Path, lines: Mapping[int, Verdict]) -> None:
    text = "".join(_line(lines[i]) for i in sorted(lines))
    atomic_write(file, lambda stream: stream.write(text.encode()))


def _line(line: Verdict) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
