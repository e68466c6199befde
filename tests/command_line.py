"""The command `hart`, called in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from hart.cli import app


def run(*arguments: Any, sent: bytes = b"") -> Result:
    """sent: comes from its standard input."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=sent)


def evaluate(*arguments: Any) -> Result:
    return run("evaluate", *arguments)


def figures(result: Result, out: Path) -> dict[str, Any]:
    """What a successful suite wrote."""
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads((out / "figures.json").read_text())
    return values


def run_in_process(arguments: tuple[Any, ...], results: Any) -> None:
    """The same in a process of `processes.CONTEXT`; puts its exit code and standard output."""
    result = run(*arguments)
    results.put((result.exit_code, result.stdout))


def refused(result: Result, *, notes: bool = False) -> str:
    """The one line of a command that was given bad input. notes: there may be others before it."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *before, line = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert notes or not before
    return line


def outputs(result: Result, *, notes: bool = False) -> list[Path]:
    """The files that a successful command printed. notes: it may say more, as of a number type on this processor."""
    assert result.exit_code == 0, result.output
    assert notes or result.stderr == ""  # no terminal: no bars
    return [Path(line) for line in result.stdout.splitlines()]
