"""Checkpoints that are whole files with wrong content: errors name them, and the older one to resume from."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.errors import HartError
from hart.training.optimizer import build_optimizer
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


WHOLE = ("it holds a list in", "it holds objects")
"""Checkpoints that are something else altogether, and what is wrong with them."""
MODULE, OPTIMISER = ("weights", "parts", "model", "module"), ("weights", "parts", "model", "optimizer")
FIRST = (*MODULE, "first.weight")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: [1, 2], "it holds a list instead of a table"),
        (lambda saved: {"x": ToyTask}, "it holds objects other than numbers, texts and tensors"),
        (drop("weights"), "it lacks weights"),
        (put("more", value=1), "it has more, which this run does not know"),
        (put("step", value=10**9), r"it is from step 1000000000, its name says 6"),
        (put("step", value=True), "it: step: expected a whole number, got True"),
        (put("identity", "recipe", "trainer", "steps", value=5), "it is from step 6 of 5"),
        (drop("identity", "sources"), "its identity lacks sources"),
        (put("identity", "sources", "data", value=[1, 2]), r"it: identity.sources.data\[0\]: expected text"),
        (put("sums", "loss", value=float("nan")), "it: sums.loss must be a finite number"),
        (put("counts", "loss", value=0), "it: counts.loss must be at least 1, not 0"),
        (put("model", value=[3]), r"it: model\[0\]: expected text, got 3"),
        (put("weights", "parts", value={}), "it lacks model"),
        (put("weights", "parts", "model", value=None), "model holds a NoneType"),
        (drop(*FIRST), r"model lacks first\.weight"),
        (put(*MODULE, "extra", value=torch.zeros(1)), "model has extra"),
        (spoil(*FIRST, by=lambda t: t * torch.nan), r"model: first\.weight is not finite"),
        (spoil(*FIRST, by=lambda t: t.T), r"model: first\.weight is float32 \(2, 4\) instead of float32 \(4, 2\)"),
        (spoil(*FIRST, by=lambda t: t.char()), r"is int8 \(4, 2\) instead of float32"),
        (spoil(*FIRST, by=lambda t: t.to_sparse()), "is not a plain tensor"),
        (put(*FIRST, value=[1.0]), "is not a plain tensor"),
        (spoil("weights", "average", "last.bias", by=lambda t: t / 0), r"the average: last\.bias is not finite"),
        (drop(*OPTIMISER, "0"), "the optimiser of model lacks 0"),
        (put(*OPTIMISER, "0", "state", 99, value={}), "knows a parameter 99 of"),
        (drop(*OPTIMISER, "0", "state", 0, "exp_avg"), "lacks exp_avg"),
        (spoil(*OPTIMISER, "0", "state", 0, "exp_avg", by=lambda t: t[:1]), "exp_avg is float32"),
        (spoil(*OPTIMISER, "0", "state", 0, "exp_avg_sq", by=lambda t: t - 1), "exp_avg_sq is negative"),
    ],
)  # fmt: skip
def test_wrong_content_is_named_with_the_older_good_one(
    tmp_path: Path, finished: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    saved = state(folder, 6)
    other = change(saved)
    saved = other if said.startswith(WHOLE) else saved
    path = folder / "checkpoints" / "step-00000006.pt"
    torch.save(saved, path)
    # it was written whole
    what = "was written by another version of hart" if re.search(r"\b(lacks|has)\b", said) else "is damaged"
    with pytest.raises(HartError, match=rf"0006\.pt {what} \(.*{said}.*; delete it to go on from .*0003\.pt") as caught:
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
    said = r"0006\.pt is damaged \(not a regular file\); delete it to go on from .*0003\.pt"
    with pytest.raises(HartError, match=said):
        run(folder)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    run(folder)
    assert path.is_file()


def test_a_run_of_another_stage_or_version_is_not_called_damaged(tmp_path: Path, finished: Path) -> None:

    other, older = tmp_path / "other", tmp_path / "older"
    for folder, change in (
        (other, put("identity", "stage", value="tokenizer")),
        (older, lambda saved: saved.pop("identity")),
    ):
        shutil.copytree(finished, folder)
        for path in (folder / "checkpoints").iterdir():
            saved = torch.load(path, weights_only=True)
            change(saved)
            torch.save(saved, path)
    with pytest.raises(HartError, match=r"other holds a run of stage tokenizer: choose another folder"):
        run(other)
    with pytest.raises(
        HartError, match=r"0006\.pt was written by another version of hart \(it lacks identity\); go on with"
    ):
        run(older)


def test_muons_moments_are_checked_too() -> None:
    task = ToyTask()
    optimizer = build_optimizer(task.module, OPTIMIZER.replace(kind="muon"))
    for parameter in task.module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    optimizer.check(saved, "it")
    with pytest.raises(HartError, match=r"it is of another optimizer\.kind"):
        build_optimizer(task.module, OPTIMIZER).check(saved, "it")
    saved["1"]["state"][0]["momentum"] = torch.zeros(1)
    with pytest.raises(HartError, match="it: momentum is float32"):
        optimizer.check(saved, "it")


@pytest.mark.parametrize("lost", ["all", "one file"])
def test_a_finished_run_writes_a_lost_model_again(tmp_path: Path, lost: str) -> None:
    Trainer(ToyTask(), recipe(), tmp_path).run()
    model = tmp_path / "model"
    if lost == "all":
        shutil.rmtree(model)
    else:
        (model / "weights").unlink()
    notes: list[str] = []
    Trainer(ToyTask(), recipe(), tmp_path, on_note=notes.append).run()
    assert (model / "weights").exists()
    assert "model was incomplete: it is written again from the checkpoint" in notes[-1]


@pytest.mark.parametrize(
    "broken",
    [b"\0\0\0\0\n", b"[]\n", b'{"step": "2"}\n', b'{"step": NaN}\n', b"[" * 100_000 + b"\n"],
)  # fmt: skip
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
