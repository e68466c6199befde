"""Checkpoints that are whole files with wrong content: errors name them, and the older one to resume from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.errors import HartError
from hart.training.trackers import LOG_FILE
from hart.training.trainer import Trainer
from toy_training import OPTIMIZER, ToyTask, recipe
from training_state import log_lines, state


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


def run(folder: Path) -> None:
    """With Muon, which has AdamW beside it."""
    given = recipe(OPTIMIZER.replace(kind="muon"))
    Trainer(ToyTask(given.optimizer), given, folder).run()


def at(*keys: Any) -> Callable[[dict[str, Any]], dict[Any, Any]]:
    """The table under some keys."""

    def find(saved: dict[str, Any]) -> dict[Any, Any]:
        for key in keys:
            saved = saved[key]
        return saved

    return find


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda saved: at(*keys[:-1])(saved).__setitem__(keys[-1], value)


def drop(*keys: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda saved: at(*keys[:-1])(saved).pop(keys[-1])


def spoil(*keys: Any, by: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], Any]:
    return lambda saved: at(*keys[:-1])(saved).__setitem__(keys[-1], by(at(*keys)(saved)))  # type: ignore[arg-type]


WHOLE = ("it: expected a table", "it holds objects")
"""Checkpoints that are something else altogether, and what is wrong with them."""
MODULE, MOMENTS = ("weights", "modules", "model"), ("weights", "optimizers", "model")
FIRST, FIRST_MOMENTS = (*MODULE, "first.weight"), (*MOMENTS, "AdamW", 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: [1, 2], "it: expected a table"),
        (lambda saved: {"x": ToyTask}, "it holds objects other than numbers, texts and tensors"),
        (drop("weights"), r"it: weights: missing key"),
        (put("more", value=1), r"it: more: unknown key"),
        (put("step", value=10**9), r"it is from step 1000000000, its name says 6"),
        (put("step", value=True), "it: step: expected a whole number, got True"),
        (drop("identity", "sources"), r"it: identity\.sources: missing key"),
        (put("means", "loss", value=(1.0, 0)), r"it: means.loss\[1\] must be at least 1, not 0"),
        (put("weights", "modules", "model", value=None), "modules: model: a NoneType instead of a table"),
        (drop(*FIRST), r"modules: model: lacks first\.weight"),
        (put(*MODULE, "extra", value=torch.zeros(1)), "modules: model: has unknown extra"),
        (spoil(*FIRST, by=lambda t: t * torch.nan), r"modules: model: first\.weight: not finite"),
        (spoil(*FIRST, by=lambda t: t.T), r"first\.weight: float32 \(2, 4\) instead of float32 \(4, 2\)"),
        (spoil(*FIRST, by=lambda t: t.char()), r"int8 \(4, 2\) instead of float32"),
        (put(*FIRST, value=[1.0]), "not a plain tensor"),
        (spoil("weights", "average", "last.bias", by=lambda t: t / 0), r"average: last\.bias: not finite"),
        (drop(*MOMENTS, "Muon"), "optimizers: model: lacks Muon"),
        (put(*MOMENTS, "AdamW", 99, value={}), "AdamW: has unknown 99"),
        (drop(*FIRST_MOMENTS, "exp_avg"), "AdamW: 0: lacks exp_avg"),
        (spoil(*FIRST_MOMENTS, "exp_avg", by=lambda t: t[:1]), "exp_avg: float32"),
        (spoil(*MOMENTS, "Muon", 0, "momentum", by=lambda t: t[:1]), "momentum: float32"),
    ],
)  # fmt: skip
def test_wrong_content_is_named_with_the_older_good_one(
    tmp_path: Path, finished: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    saved = state(folder, 6)
    other = change(saved)
    path = folder / "checkpoints" / "step-00000006.pt"
    torch.save(other if said.startswith(WHOLE) else saved, path)
    with pytest.raises(
        HartError, match=rf"0006\.pt cannot be resumed from \(.*{said}.*; delete it to go on from .*0003\.pt"
    ) as caught:
        run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda path: path.symlink_to("/dev/zero"), os.mkfifo])
def test_what_is_no_file_is_named_with_the_older_good_one(
    tmp_path: Path, finished: Path, spoil: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = folder / "checkpoints" / "step-00000006.pt"
    path.unlink()
    spoil(path)
    with pytest.raises(HartError, match=r"0006\.pt .* \(not a regular file\); delete it to go on from .*0003\.pt"):
        run(folder)


def test_a_run_of_another_stage_is_named(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(finished, folder)
    saved = state(folder, 6)
    saved["identity"]["stage"] = "tokenizer"
    torch.save(saved, folder / "checkpoints" / "step-00000006.pt")
    with pytest.raises(HartError, match=r"other holds a run of stage tokenizer: choose another folder"):
        run(folder)


@pytest.mark.parametrize(
    "broken",
    [b"\0\0\0\0\n", b"[]\n", b'{"step": NaN}\n', b'{"step": 2, "lo\0\0": 1.0}\n'],
)
def test_a_damaged_log_is_mended(tmp_path: Path, broken: bytes) -> None:
    Trainer(ToyTask(), recipe(), tmp_path / "whole").run()
    Trainer(ToyTask(), recipe(steps=4), tmp_path / "run").run()
    log = tmp_path / "run" / LOG_FILE
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + broken + b"".join(lines[1:]) + b'{"step": 4, "cut sho')
    notes: list[str] = []
    Trainer(ToyTask(), recipe(steps=6), tmp_path / "run", on_note=notes.append).run()
    assert notes == [f"{log}: left out 1 damaged line"]
    assert [line["step"] for line in log_lines(tmp_path / "run")] == [2, 4, 6]


def test_a_log_that_windows_has_saved_keeps_its_lines(tmp_path: Path) -> None:
    Trainer(ToyTask(), recipe(steps=4), tmp_path / "run").run()
    log, notes = tmp_path / "run" / LOG_FILE, list[str]()
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n"))
    Trainer(ToyTask(), recipe(steps=6), tmp_path / "run", on_note=notes.append).run()
    assert not notes
    assert [line["step"] for line in log_lines(tmp_path / "run")] == [2, 4, 6]
