"""The leaderboard page is what its program writes, and a measured row says with what it was measured."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from hart import HartPipeline
from hart.checkpoint.loading import load_config
from hart.cli import app
from hart.evaluation.metrics.figures import Figure
from hart.evaluation.report import FIGURES_FILE, Result, write_result
from helpers import unpadded


@pytest.fixture
def program() -> ModuleType:
    return import_module("leaderboard")


def commands() -> dict[str, Any]:
    """The suites of `hart evaluate`, by name."""
    group: Any = typer.main.get_command(app)
    evaluate = group.get_command(None, "evaluate")
    return {name: evaluate.get_command(None, name) for name in evaluate.list_commands(None)}


def test_the_page_is_up_to_date(program: ModuleType) -> None:
    assert program.PAGE.read_text(encoding="utf-8") == program.page(), "run python benchmarks/leaderboard.py"


def test_printed_rows_have_a_cell_for_every_column(program: ModuleType) -> None:
    for section in program.SECTIONS:
        for table in section.published:
            assert all(len(cells) == len(table.columns) for cells in table.rows.values()), table.source


def test_a_measured_row_says_command_weights_machine_and_features(program: ModuleType, tmp_path: Path) -> None:
    result = Result(
        suite="imagenet",
        title="5 images",
        figures={"samples": {"FID (net)": Figure(12.345, 11.0, 13.0)}},
        settings={"model": "var-d16", "weights": {"transformer": "0123456789abcdef", "tokenizer": "fedcba9876543210"}},
        counts={"samples": 5},
        extractor={"name": "net", "weights_sha256": "aaaabbbbccccdddd"},
        notes=("too few",),
    )
    write_result(tmp_path / "run", result, "hart evaluate imagenet --model var-d16")
    (tmp_path / "results").mkdir()
    (tmp_path / "run" / FIGURES_FILE).rename(tmp_path / "results" / "d16.json")
    page = program.page(tmp_path / "results")
    section = page[page.index("## Class-conditional ImageNet") : page.index("## Ablations")]
    for said in (
        "| HART-d30 | 1.77 | 330.3 |",
        "### Measured: d16",
        "| samples | 12.35 (11.00 to 13.00) |",
        "- command: `hart evaluate imagenet --model var-d16`",
        "- weights: var-d16 (transformer 0123456789ab, tokenizer fedcba987654)",
        "- features: net (weights aaaabbbbcccc)",
        "- note: too few",
        "- machine: ",
    ):
        assert said in unpadded(section)


def test_its_commands_are_commands_of_hart(program: ModuleType) -> None:
    suites = commands()
    for run in program.RUNS.values():
        program_name, *words = run.split()
        if program_name == "hart":  # commands of projects are tested there
            suite, *options = words[1:]
            assert suites[suite].make_context(suite, options)
    with pytest.raises(SystemExit, match="2"):
        program.main(["--measure", "typo"])


def test_results_of_every_suite_have_a_place(program: ModuleType) -> None:
    """A file in benchmarks/results/suites that no section shows would be lost without a word."""
    assert set(commands()) < {suite for section in program.SECTIONS for suite in section.suites}


def test_missing_data_is_said_before_anything_is_measured(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emoji, photos = program.missing(["tokenizer-emoji", "tokenizer-photos", "cost-emoji"], tmp_path)
    place = f"data/emoji{load_config('emoji').tokenizer.image_size}"
    assert emoji == f"tokenizer-emoji: {place} is not there: run hart-emoji data {place} (projects/emoji)"
    assert photos.startswith("tokenizer-photos: data/photos-256-val.tar is not there") and "any tar" in photos
    (tmp_path / place).mkdir(parents=True)
    assert program.missing(["tokenizer-emoji"], tmp_path) == []

    measured: list[str] = []
    monkeypatch.setattr(program, "missing", lambda *_: ["tokenizer-photos: not there"])
    monkeypatch.setattr(program, "measure", measured.append)
    with pytest.raises(SystemExit, match="tokenizer-photos: not there"):
        program.main(["--measure", "all"])
    assert not measured


def test_rows_of_other_weights_than_those_shipped_are_marked(program: ModuleType) -> None:
    shipped = HartPipeline.from_pretrained("emoji", device="cpu").fingerprints()
    for settings, other in (
        ({"model": "emoji", "weights": shipped}, False),
        ({"model": "emoji", "weights_sha256": shipped["tokenizer"]}, False),
        ({"model": "emoji", "weights": shipped | {"transformer": "0123"}}, True),
        ({"model": "var-d16", "weights_sha256": "0123"}, False),
    ):
        assert ("other weights than those shipped" in program.weights(settings)) == other


@pytest.mark.parametrize(("load", "busy"), [(1.5, False), (9.2, True), (None, False)])
def test_times_of_a_busy_machine_are_marked(program: ModuleType, load: float | None, busy: bool) -> None:
    machine = {"processor": "Xeon", "cores": 2, "gpus": [], "threads": 2, "load_average": load, "hart": "0.1.0",
               "packages": {"torch": "2.13.0"}}  # fmt: skip
    values = {"suite": "cost", "title": "", "command": "", "figures": {}, "settings": {"model": "m"}, "counts": {},
              "notes": [], "extractor": None, "environment": machine}  # fmt: skip
    assert ("busy machine" in program.measured_table("cost-m", values)[-1]) == busy
