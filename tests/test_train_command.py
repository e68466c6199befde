"""`hart train` as it is called: what is said first, and who may use a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hart.cli import app
from hart.errors import HartError
from hart.locks import locked

RECIPES = Path(__file__).parents[1] / "recipes" / "emoji"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    """The one line of a refusal."""
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_a_dry_run_says_memory_before_it_measures_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise HartError("measuring")

    monkeypatch.setattr("hart.training.dry_run.measure", slow)
    small = ("transformer.depth=1", "diffusion.depth=1", "trainer.compile=false")
    result = run("train", "transformer", RECIPES / "transformer.toml", "--dry-run", *small)
    assert "measuring" in refused(result)
    said = [line.split()[0] for line in result.stdout.splitlines()]
    assert said == ["parameters", "tokens", "operations", "processes", "memory", "checkpoint"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path, "training"):
        for line in (
            ("train", "tokenizer", RECIPES / "tokenizer.toml", "--out", tmp_path),
            ("evaluate", "cost", "--out", tmp_path),
        ):
            assert f"goes on there already, by process {os.getpid()} on " in refused(run(*line))
