"""The training loop: step, average, log, sample, save, resume. It only knows `Task`, neither images nor tokens.

All randomness of step n comes from generators seeded with (seed, purpose, n), so that a run resumed at step n
continues as an unbroken one would, whatever the number of processes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from hart.benchmark.machine import square_rate
from hart.checkpoint.folders import MODEL_FOLDER
from hart.devices import is_slow
from hart.errors import HartError, Stopped
from hart.files import write_text
from hart.stopping import StopSignal
from hart.training.checkpoint import RECIPE_FILE, SAMPLES_FOLDER, Identity, RunFolder, Saved, UnreadableError, other_run
from hart.training.config import StageRecipe
from hart.training.distributed import DistributedContext
from hart.training.progress import Means, Speed, StepFigures, StepReport, Work
from hart.training.step import Stepper
from hart.training.task import Task
from hart.training.trackers import LOG_FILE, RunLog


class Trainer:
    """Runs a task for `recipe.trainer.steps` steps in `folder`, resuming from the checkpoint there, if any."""

    def __init__(
        self,
        task: Task,
        recipe: StageRecipe,
        folder: Path,
        distributed: DistributedContext | None = None,
        *,
        work: Work | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        on_log: Callable[[int, dict[str, float]], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        accept_changes: bool = False,
    ) -> None:
        """distributed: by default what the recipe and the launch ask for.

        work: per image, for tokens per second and MFU; None leaves them out.
        on_step, on_log: called in the main process after each step, and with the averages of each log line.
        on_note: called in the main process with messages for the user.
        accept_changes: resume even if recipe, data or frozen networks differ from the checkpoint's, and record the new
            ones. Weights must still fit.
        Raises `HartError` if the folder holds a run with another recipe, data or networks, or a damaged checkpoint.
        Only one process at a time may use a folder; see `hart.commands.locks`.
        """
        self.task = task
        self.recipe = recipe
        self.config = recipe.trainer
        self.folder = folder
        self.distributed = distributed or DistributedContext(self.config)
        self.work = work
        self.on_step = on_step
        self.on_log = on_log
        self.on_note = on_note
        self.run_folder = RunFolder(folder, self.config.keep_checkpoints)
        self.means = Means()
        self.latest: dict[str, float] = {}
        """Figures of the last step that the device has finished."""
        self._pending: deque[StepFigures] = deque()
        self.step = 0
        self.saved = 0
        """The step of the last checkpoint."""
        self.stepper = Stepper(task, self.config, self.distributed)
        sources = self.distributed.from_main(lambda: task.sources)
        self.identity = Identity(type(recipe).stage, recipe.to_dict(), dict(sources))
        self._changes: list[str] = []
        state = self.run_folder.load(self.identity.stage, lambda state: self._check(state, accept_changes))
        if state is not None:
            self.stepper.load_state_dict(state.weights)
            self.means.totals = state.means
            self.step = self.saved = state.step
        # no process may still be looking for the checkpoint
        self.distributed.wait()
        if self.distributed.main:
            if state is not None and self._changes:
                self._note(f"resumes with changes: {', '.join(self._changes)}")
                self.run_folder.save(state.step, state.replace(identity=self.identity).state_dict())
            with self.run_folder.writing("the recipe"):
                write_text(folder / RECIPE_FILE, recipe.to_json())
            self.run_folder.tidy()

    def _check(self, state: Saved, accept_changes: bool) -> None:
        """Raise `HartError` for a checkpoint of another run, `UnreadableError` for weights that do not fit this one."""
        settings = state.identity.other_settings(self.recipe, self.identity.sources)
        self._changes = [*settings, *state.identity.other_sources(self.identity.sources)]
        if self._changes and not accept_changes:
            raise other_run(self.folder, "another recipe" if settings else "other data or weights", self._changes)
        try:
            self.stepper.check(state.weights)
        except UnreadableError as error:
            if not settings:
                raise
            raise HartError(f"{self.folder}: its checkpoint does not fit: {error}; choose another folder") from None

    def _note(self, message: str) -> None:
        if self.distributed.main and self.on_note is not None:
            self.on_note(message)

    def run(self) -> None:
        """Train to the end; the averaged model is written with every checkpoint.

        Ctrl-C, SIGTERM or a closed terminal in any process ends the run after the current step, with a checkpoint, and
        raises `Stopped`.
        """
        if self.step >= self.config.steps:
            done = f"the run has {self.step} steps: nothing is trained, its model is written again"
            self._note(f"{done}; for more give a larger trainer.steps")
            self._save_model()  # some of its files may be missing
            return
        if self.config.precision == "bfloat16" and is_slow(torch.bfloat16, self.distributed.device):
            self._note(
                "this processor has neither AMX nor AVX-512 bf16, so that bfloat16 takes several times as long as "
                "float32: stop, and begin again with trainer.precision=float32"
            )
        log: RunLog | None = None
        try:
            if self.distributed.main:
                with self.run_folder.writing("the log", LOG_FILE):
                    log = RunLog(self.recipe, self.folder, self.step, self._note)
            self.task.prepare()
            stop = StopSignal()
            with stop.heard():
                self._loop(log, stop)
        except HartError as error:
            message = str(error)
            last = self.run_folder.last_good()
            raise HartError(message if last in message else f"step {self.step}: {message}; {last}") from None
        finally:
            if log is not None:
                log.close()

    def _loop(self, log: RunLog | None, stop: StopSignal) -> None:
        config = self.config
        speed = Speed(config, self.work, self._peak(), time.perf_counter)
        while self.step < config.steps:
            batches = stop.unless_stopped(lambda: self.stepper.batches(self.step))
            # all stop at the same step: those that wait for data give up, those that have data do not use it
            if number := self.distributed.largest(stop.number or 0):
                self._stop(number)
            assert batches is not None
            self._pending.append(self.stepper.step(self.step, batches))
            self.step += 1
            last = self.step == config.steps
            logged = last or self.step % config.log_every == 0
            self._read_figures(wait=logged)
            report = speed.step(self.step, self.latest)
            if self.distributed.main and self.on_step is not None:
                self.on_step(report)
            if logged:
                self._log(log, report)
            if config.sample_every and (last or self.step % config.sample_every == 0):
                self._sample(log)
            if last or self.step % config.checkpoint_every == 0:
                self._save()

    def _peak(self) -> float:
        """Return operations per second of all processes; 0 if the task's work is unknown."""
        if self.work is None:
            return 0.0
        dtype = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32
        one = self.config.peak_tflops * 1e12 or square_rate(dtype, self.distributed.device)
        return one * self.distributed.count

    def _read_figures(self, *, wait: bool = False) -> None:
        """Count the figures that have arrived, or, with `wait`, those of all steps so far."""
        while self._pending and (wait or self._pending[0].arrived):
            figures = self._pending.popleft()
            try:
                self.latest = figures.read()
            except HartError:
                self.step = figures.step
                raise
            self.means.add(self.latest)

    def _log(self, log: RunLog | None, report: StepReport) -> None:
        figures = self.means.take() | {"images_per_second": report.images_per_second}
        if report.mfu is not None and report.tokens_per_second is not None:
            figures |= {"tokens_per_second": report.tokens_per_second, "mfu": report.mfu}
        if log is None:
            return
        with self.run_folder.writing("the log", LOG_FILE):
            log.figures(self.step, figures)
        if self.on_log is not None:
            self.on_log(self.step, figures)

    def _sample(self, log: RunLog | None) -> None:
        module = self.stepper.averaged_module()
        if module is not None and log is not None:
            with torch.no_grad():
                images = self.task.samples(self.step, module.to(self.distributed.device))
            with self.run_folder.writing("a sample image", SAMPLES_FOLDER):
                log.images(self.step, images)
            if self.step == self.config.steps:
                self._note(f"images of the model: {self.folder / SAMPLES_FOLDER}")
        self.distributed.wait()

    def _stop(self, number: int) -> NoReturn:
        if self.saved < self.step:
            self._save()
        path = self.run_folder.path(self.step)
        kept = f"{path}; the same command continues from there" if self.step else "nothing yet"
        # one process speaks for all
        raise Stopped("" if not self.distributed.main else f"stopped after step {self.step}; kept: {kept}", number)

    def _save_model(self) -> None:
        """Write the averaged model. All processes must call it."""
        module = self.stepper.averaged_module()
        if module is not None:
            with self.run_folder.writing("the model"):
                self.task.save(self.folder / MODEL_FOLDER, module)

    def _save(self) -> None:
        # a step whose loss was not finite leaves nothing behind
        self._read_figures(wait=True)
        # the model first: if a checkpoint says "finished", its model must exist
        self._save_model()
        weights = self.stepper.state_dict()
        if self.distributed.main:
            saved = Saved(step=self.step, identity=self.identity, means=self.means.totals, weights=weights)
            self.run_folder.save(saved.step, saved.state_dict())
        self.saved = self.step
        self.distributed.wait()
