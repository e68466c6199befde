"""The training loop: step, clip, average, log, save, resume. Knows only `Task`, no images and no tokens.

Everything random in step n comes from generators seeded with (seed, n), so that a run resumed at step n goes
on as an unbroken one would.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hart.errors import HartError
from hart.training.config import OptimizerConfig, TrainerConfig
from hart.training.ema import WeightAverage
from hart.training.optimizer import build_optimizer, learning_rate

STATE_FILE = "state.pt"
LOG_FILE = "metrics.jsonl"


class Task(Protocol):
    """One thing to train."""

    @property
    def module(self) -> nn.Module:
        """Holds all trained parameters."""
        ...

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of step `step` and its named parts."""
        ...

    def after_step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Called after each optimiser step; returns figures to log, often none."""
        ...

    def save(self, folder: Path, module: nn.Module) -> None:
        """Write `module` (the averaged weights) as a finished model."""
        ...


def step_generator(seed: int, step: int, device: str = "cpu") -> torch.Generator:
    """The generator of everything random in one step."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


class Trainer:
    """Runs a task for `config.steps` steps in `folder`, resuming from the state found there."""

    def __init__(
        self,
        task: Task,
        config: TrainerConfig,
        optimizer: OptimizerConfig,
        folder: Path,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.optimizer_config = optimizer
        self.folder = folder
        self.report = report
        self.optimizer = build_optimizer(task.module, optimizer)
        self.average = WeightAverage(task.module, config.ema_decay)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            self._resume()

    def run(self) -> None:
        """Train to the end; the averaged model is written with every checkpoint."""
        totals: defaultdict[str, float] = defaultdict(float)
        logged = self.step
        started = time.perf_counter()
        while self.step < self.config.steps:
            for name, value in self._train_step().items():
                totals[name] += value
            self.step += 1
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                count, now = self.step - logged, time.perf_counter()
                figures = {name: value / count for name, value in totals.items()}
                rate = count * self.config.batch_size / (now - started)
                self._log({"step": self.step, **figures, "images_per_second": rate})
                totals.clear()
                logged, started = self.step, now
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self._save()

    def _train_step(self) -> dict[str, float]:
        config = self.config
        generator = step_generator(config.seed, self.step, config.device)
        rate = learning_rate(self.step, config.steps, self.optimizer_config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.task.module.train()
        with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss, parts = self.task.loss(self.step, generator)
        self._require_finite("loss", loss)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.module.parameters(), self.optimizer_config.gradient_clip)
        self._require_finite("gradient norm", norm)
        self.optimizer.step()
        self.average.update(self.task.module, self.step)
        extra = self.task.after_step(self.step, generator)
        figures = {"loss": loss.detach(), **parts, "gradient_norm": norm}
        return {name: float(value) for name, value in figures.items()} | extra

    def _require_finite(self, name: str, value: Tensor) -> None:
        """Stop before a weight is touched, so that no checkpoint is ever written over a good one."""
        if not torch.isfinite(value):
            raise HartError(
                f"the {name} is {value.item()} at step {self.step}; the last good checkpoint is in {self.folder}: "
                "resume with a lower learning rate or a lower gradient_clip"
            )

    def _log(self, figures: dict[str, Any]) -> None:
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        if self.report is not None:
            self.report(figures)

    def _save(self) -> None:
        # the model first: a state that says "finished" must find its model written
        self.task.save(self.folder / "model", self.average.module)
        state = {
            "step": self.step,
            "module": self.task.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.folder / (STATE_FILE + ".partial")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / STATE_FILE)

    def _resume(self) -> None:
        state = torch.load(self.folder / STATE_FILE, map_location=self.config.device, weights_only=True)
        self.task.module.load_state_dict(state["module"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
