"""Trains one stage of the shipped model on one device within a given time, with the project's own trainer.

A stage is one run in two parts: a short one within the warm-up measures how long a step takes, and the rest has as many
steps as fit into the time. A stopped stage continues from its newest checkpoint.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hart.files import write_json
from hart.training import (
    StepReport,
    Task,
    TokenizerRecipe,
    TokenizerTask,
    Trainer,
    TransformerRecipe,
    TransformerTask,
    require_versions,
)
from hart_emoji.shipped.pack import PERCEPTUAL, read_pack
from hart_emoji.shipped.weights import export

TRIAL = 40
"""Steps of the first part, which is no longer than the warm-up."""
SAVE_EVERY = 60.0
"""Seconds between checkpoints."""
MARGIN = 0.94
"""Share of the remaining time that is planned for steps and saving; the rest allows for variation."""
LOG_LINES = 400
PLAN, PREPARED, STARTED = "plan.json", "prepared", "started"


@dataclass(eq=False)
class Plan:
    """What a stage has measured and planned; stored beside its checkpoints."""

    step_seconds: float = 0.0
    save_seconds: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Job:
    """Where a stage reads and writes, and which settings it changes."""

    pack: Path
    work: Path
    out: Path
    recipes: Path
    device: torch.device
    deadline: float
    """Compared with `time.time`."""
    overrides: tuple[str, ...]
    perceptual: bool = True
    start_from: str = ""
    """Folder of a model or of a tokenizer."""

    @property
    def left(self) -> float:
        return self.deadline - time.time()


def tokenizer_recipe(job: Job) -> TokenizerRecipe:
    """Return the recipe with all changes. Raises `HartError`."""
    changes = [f"init_from={json.dumps(job.start_from)}"] if job.start_from else []
    if job.perceptual and (job.pack / PERCEPTUAL).exists():
        changes.append(f"perceptual.files=[{json.dumps(str(job.pack / PERCEPTUAL))}]")
    if not job.perceptual:
        changes.append("perceptual.weight=0")
    return TokenizerRecipe.read(job.recipes / "tokenizer.toml", (*common(job), *changes, *job.overrides))


def transformer_recipe(job: Job) -> TransformerRecipe:
    """Return the recipe with all changes. Raises `HartError`, also for what hart would find only while encoding."""
    changes = [f"tokenizer={json.dumps(str(job.work / 'tokenizer' / 'model'))}", 'text_encoder="emoji"']
    if job.start_from and (Path(job.start_from) / "hart.safetensors").exists():
        changes.append(f"init_from={json.dumps(job.start_from)}")
    recipe = TransformerRecipe.read(job.recipes / "transformer.toml", (*common(job), *changes, *job.overrides))
    require_versions(recipe)
    return recipe


def common(job: Job) -> tuple[str, ...]:
    """Return the changes to every recipe: data on the device, one process."""
    precision = [] if job.device.type == "cuda" else ['trainer.precision="float32"']
    return (
        f"data={json.dumps(str(job.pack))}",
        f'trainer.device="{job.device.type}"',
        'trainer.distributed="none"',
        "trainer.keep_checkpoints=1",
        "reading.on_device=true",
        *precision,
    )


class Exported(Task):
    """Also exports everything that it saves."""

    out: Path

    def save(self, folder: Path, module: nn.Module) -> None:
        super().save(folder, module)  # type: ignore[safe-super]  # of a stage
        export(folder, self.out)


class ExportedTokenizer(Exported, TokenizerTask):
    """Exports the tokenizer."""


class ExportedTransformer(Exported, TransformerTask):
    """Exports the transformer with the tokenizer."""


def run_stage(job: Job, stage: str) -> None:
    """Train until the job's time is over, and write `work/STAGE/model`. The transformer uses the tokenizer in
    `work/tokenizer/model`."""
    data, folder = read_pack(job.pack), job.work / stage
    recipe: TokenizerRecipe | TransformerRecipe
    task: Exported
    if stage == "tokenizer":
        recipe = tokenizer_recipe(job)
        task, multiple = ExportedTokenizer(recipe, data, job.device), recipe.revive_every
    else:
        recipe = transformer_recipe(job)
        task, multiple = ExportedTransformer(recipe, data, job.device), 0
    task.out = job.out
    plan_path = folder / PLAN
    plan = Plan(**json.loads(plan_path.read_text(encoding="utf-8"))) if plan_path.exists() else Plan()
    times: list[float] = []
    task.prepare()  # encodes all images and captions before the remaining time is planned
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PREPARED).touch()

    def train_part(steps: int, every: int, sample_every: int) -> None:
        settings = recipe.trainer.replace(
            steps=steps,
            checkpoint_every=every,
            sample_every=sample_every,
            log_every=max(1, steps // LOG_LINES),
        )
        given = recipe.replace(trainer=settings)
        on_step, on_log = timed(times, folder / STARTED), logged(job, folder)
        Trainer(task, given, folder, on_step=on_step, on_log=on_log).run()

    trial = min(TRIAL, max(recipe.optimizer.warmup_steps, 4))
    if not plan.step_seconds:
        train_part(trial, whole_multiple(trial, multiple), 0)
        plan.step_seconds = statistics.median(times[len(times) // 2 :])
        plan.save_seconds = save_time(job, folder)
    done = max(int(file.stem.removeprefix("step-")) for file in (folder / "checkpoints").glob("step-*.pt"))
    per_save = max(SAVE_EVERY, 10 * plan.save_seconds)
    every = whole_multiple(max(1, round(per_save / plan.step_seconds)), multiple)
    seconds = max(job.left, 0.0) * MARGIN
    seconds -= plan.save_seconds * (seconds // per_save + 1)
    plan.steps = max(done + int(seconds / plan.step_seconds), done + 1)
    write_json(plan_path, vars(plan))
    # sample images only at the end
    train_part(plan.steps, every, plan.steps)


def whole_multiple(steps: int, of: int) -> int:
    """Round `steps` up to a multiple of `of`, unless `of` is 0."""
    return steps if of == 0 else -(-steps // of) * of


def timed(times: list[float], started: Path) -> Callable[[StepReport], None]:
    """Return a callback that records each step's seconds, and creates the file `started` at the first."""
    last = [time.perf_counter()]

    def on_step(report: StepReport) -> None:
        now = time.perf_counter()
        times.append(now - last[0])
        last[0] = now
        if not started.exists():
            started.touch()

    return on_step


def logged(job: Job, folder: Path) -> Callable[[int, dict[str, float]], None]:
    def on_log(step: int, figures: dict[str, float]) -> None:
        job.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "metrics.jsonl", job.out / f"{folder.name}.jsonl")

    return on_log


def save_time(job: Job, folder: Path) -> float:
    """Return how many seconds the trial's last checkpoint took, from its model to its last file."""
    files: Sequence[Path] = [*(folder / "model").iterdir(), *(folder / "checkpoints").iterdir()]
    changed = [file.stat().st_mtime for file in files]
    return max(changed) - min(changed) + 0.1
