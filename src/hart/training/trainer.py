"""The training loop: step, average, log, show, save, resume. Knows only `Task`, no images and no tokens.

Everything random in step n comes from generators seeded with (seed, purpose, n), so that a run resumed at step n
goes on as an unbroken one would, whatever the number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from hart.errors import HartError
from hart.training.checkpoint import RunFolder
from hart.training.config import Recipe
from hart.training.distributed import Processes
from hart.training.progress import Means, Speed, StepReport, measure_peak
from hart.training.step import Stepper
from hart.training.task import Task
from hart.training.trackers import Tracker, open_trackers

MODEL_FOLDER = "model"


class Trainer:
    """Runs a task for `recipe.trainer.steps` steps in `folder`, going on from the checkpoint found there."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        folder: Path,
        processes: Processes | None = None,
        *,
        macs: int = 0,
        on_step: Callable[[StepReport], None] | None = None,
        on_log: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        """processes: by default those that the recipe and the launch ask for.

        macs: multiply-accumulates of one picture's forward pass, for the MFU; 0 leaves it out.
        on_step, on_log: called in the main process after each step, and with the averages of each log line.
        Raises `HartError` when the folder holds a run of another recipe or a damaged checkpoint.
        """
        self.task = task
        self.recipe = recipe
        self.config = recipe.trainer
        self.folder = folder
        self.processes = processes or Processes(self.config)
        self.macs = macs
        self.on_step = on_step
        self.on_log = on_log
        self.run_folder = RunFolder(folder, self.config.keep_checkpoints)
        self.means = Means()
        self.step = 0
        if self.processes.main:
            folder.mkdir(parents=True, exist_ok=True)
            self.run_folder.claim(recipe)
        self.processes.wait()
        self.stepper = Stepper(task, self.config, self.processes)
        if (state := self.run_folder.load()) is not None:
            self.stepper.load_state_dict(state["weights"])
            self.means.sums, self.means.counts = state["sums"], state["counts"]
            self.step = state["step"]
        if self.processes.main:
            self.run_folder.tidy()

    def run(self) -> None:
        """Train to the end; the averaged model is written with every checkpoint."""
        if self.step >= self.config.steps:
            return
        trackers: list[Tracker] = []
        try:
            if self.processes.main:
                with self.run_folder.writing("the log"):
                    trackers = open_trackers(self.config.trackers, self.folder, self.step, self.recipe.to_dict())
            self.task.prepare()
            self._loop(trackers)
        except HartError as error:
            message = str(error)
            last = self.run_folder.last_good()
            raise HartError(message if last in message else f"step {self.step}: {message}; {last}") from None
        finally:
            for tracker in trackers:
                with suppress(OSError):  # a full disk has been reported already
                    tracker.close()

    def _loop(self, trackers: list[Tracker]) -> None:
        config = self.config
        speed = Speed(config, self.macs, self._peak(), time.perf_counter)
        while self.step < config.steps:
            figures = self.stepper.step(self.step)
            self.step += 1
            self.means.add(figures)
            report = speed.step(self.step, figures)
            if self.processes.main and self.on_step is not None:
                self.on_step(report)
            last = self.step == config.steps
            if last or self.step % config.log_every == 0:
                self._log(trackers, report)
            if config.sample_every and (last or self.step % config.sample_every == 0):
                self._sample(trackers)
            if last or self.step % config.checkpoint_every == 0:
                self._save()

    def _peak(self) -> float:
        """Operations a second of all processes together; 0 where the task's own are unknown."""
        if not self.macs:
            return 0.0
        dtype = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32
        one = self.config.peak_tflops * 1e12 or measure_peak(self.processes.device, dtype)
        return one * self.processes.count

    def _log(self, trackers: list[Tracker], report: StepReport) -> None:
        figures = self.means.take() | {"images_per_second": report.images_per_second}
        if report.mfu is not None:
            figures["mfu"] = report.mfu
        if not self.processes.main:
            return
        with self.run_folder.writing("the log"):
            for tracker in trackers:
                tracker.figures(self.step, figures)
        if self.on_log is not None:
            self.on_log(self.step, figures)

    def _sample(self, trackers: list[Tracker]) -> None:
        module = self.stepper.averaged_module()
        if module is not None:
            with torch.no_grad():
                pictures = self.task.samples(self.step, module.to(self.processes.device))
            with self.run_folder.writing("a sample picture"):
                for tracker in trackers:
                    tracker.pictures(self.step, pictures)
        self.processes.wait()

    def _save(self) -> None:
        module = self.stepper.averaged_module()
        state = {
            "step": self.step,
            "sums": self.means.sums,
            "counts": self.means.counts,
            "weights": self.stepper.state_dict(),
        }
        if module is not None:
            # the model first: a checkpoint that says "finished" must find its model written
            with self.run_folder.writing("the model"):
                self.task.save(self.folder / MODEL_FOLDER, module)
            self.run_folder.save(self.step, state)
        self.processes.wait()
