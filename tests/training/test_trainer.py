"""The loop with a toy task: resuming is exact, faults keep the last checkpoint, logs are means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hart.errors import HartError
from hart.training.config import OptimizerConfig, TrainerConfig
from hart.training.trainer import LOG_FILE, STATE_FILE, Trainer

TRAINER = TrainerConfig(steps=6, batch_size=4, log_every=2, checkpoint_every=3, ema_decay=0.9)
OPTIMIZER = OptimizerConfig(learning_rate=0.05, warmup_steps=2)


class Line:
    """Fits a line through noisy points, drawn from the step's generator."""

    def __init__(self, bad_loss_at: int | None = None, bad_gradient_at: int | None = None) -> None:
        self.module = nn.Linear(1, 1)
        nn.init.constant_(self.module.weight, 0.5)
        nn.init.zeros_(self.module.bias)
        self.bad_loss_at = bad_loss_at
        self.bad_gradient_at = bad_gradient_at
        self.saved: list[Path] = []

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.rand(4, 1, generator=generator)
        error = self.module(x) - (2 * x + 1)
        loss = error.square().mean()
        if step == self.bad_loss_at:
            loss = loss * torch.nan
        if step == self.bad_gradient_at:
            # finite itself, and infinitely steep
            loss = loss + (self.module.weight - self.module.weight.detach()).abs().sqrt().sum()
        return loss, {"step_number": torch.tensor(float(step))}

    def after_step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        return {"drawn_after": torch.rand((), generator=generator).item()}

    def save(self, folder: Path, module: nn.Module) -> None:
        assert module is not self.module, "the averaged weights are what is kept"
        self.saved.append(folder)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / STATE_FILE, weights_only=True)


def flat(values: Any) -> list[Any]:
    """All leaves of nested dictionaries and lists, in order."""
    if isinstance(values, dict):
        return [leaf for key in values for leaf in flat(values[key])]
    if isinstance(values, list):
        return [leaf for value in values for leaf in flat(value)]
    return [values.tolist()] if isinstance(values, Tensor) else [values]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    optimizer = OPTIMIZER.replace(kind=kind)
    Trainer(Line(), TRAINER, optimizer, tmp_path / "whole").run()
    with pytest.raises(HartError):
        Trainer(Line(bad_loss_at=4), TRAINER, optimizer, tmp_path / "broken").run()
    resumed = Trainer(Line(), TRAINER, optimizer, tmp_path / "broken")
    assert resumed.step == 3
    resumed.run()
    assert flat(state(tmp_path / "whole")) == flat(state(tmp_path / "broken"))


def test_training_lowers_the_loss_and_saves_the_average(tmp_path: Path) -> None:
    task, reports = Line(), []
    Trainer(task, TRAINER.replace(steps=60), OPTIMIZER, tmp_path, report=reports.append).run()
    assert reports[-1]["loss"] < 0.2 * reports[0]["loss"]
    assert task.saved == [tmp_path / "model"] * 20


@pytest.mark.parametrize("fault", ["bad_loss_at", "bad_gradient_at"])
def test_numbers_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(tmp_path: Path, fault: str) -> None:
    # the fault comes in the step that would be followed by the second checkpoint
    task = Line(**{fault: 5})
    with pytest.raises(HartError, match=rf"at step 5; the last good checkpoint is in {tmp_path}.*lower learning rate"):
        Trainer(task, TRAINER, OPTIMIZER, tmp_path).run()
    kept = state(tmp_path)
    assert kept["step"] == 3
    assert all(torch.isfinite(value).all() for value in kept["module"].values())
    assert task.module.weight.isfinite().all(), "the weights must not have been touched"


def test_logs_are_means_over_the_steps_between_them(tmp_path: Path) -> None:
    Trainer(Line(), TRAINER.replace(steps=5), OPTIMIZER, tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["step_number"] for line in lines] == [0.5, 2.5, 4.0]
    assert all({"loss", "gradient_norm", "drawn_after", "images_per_second"} <= line.keys() for line in lines)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    Trainer(Line(), TRAINER, OPTIMIZER, tmp_path).run()
    before = flat(state(tmp_path))
    again = Line()
    Trainer(again, TRAINER, OPTIMIZER, tmp_path).run()
    assert flat(state(tmp_path)) == before
    assert not again.saved


def test_bfloat16_is_an_autocast_of_float32_weights(tmp_path: Path) -> None:
    seen = []

    class Probe(Line):
        def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(self.module(torch.ones(1, 1)).dtype)
            return super().loss(step, generator)

    task = Probe()
    Trainer(task, TRAINER.replace(precision="bfloat16", steps=1), OPTIMIZER, tmp_path).run()
    assert seen == [torch.bfloat16]
    assert task.module.weight.dtype == torch.float32
