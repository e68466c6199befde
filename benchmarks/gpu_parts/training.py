"""Part 3: training steps of the 0.7B model's recipes on random data: tokens per second, MFU, memory, step time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gpu_parts.cells import Cells, Row
from hart.benchmark.machine import peak_memory, square_rate
from hart.config import ResidualDiffusionConfig, TextConditioning
from hart.training.config import TransformerRecipe
from hart.training.distributed import DistributedContext
from hart.training.dry_run import RehearsedTransformer
from hart.training.progress import work_of
from hart.training.step import Stepper
from hart.training.task import Microbatch
from hart.training.transformer_task import TransformerBatch

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "hart-0.7b"
STEPS = 6


@dataclass(frozen=True)
class Setting:
    """One way to train. rows: images computed at once."""

    size: int
    rows: int
    recompute: bool = False
    compile: bool = False

    @property
    def key(self) -> str:
        ways = [name for name, on in (("blocks computed again", self.recompute), ("compiled", self.compile)) if on]
        return ", ".join([f"{self.size} px, batch {self.rows}", *ways])


SETTINGS = (
    Setting(256, 16),
    Setting(512, 8),
    Setting(256, 32),
    Setting(512, 12),
    Setting(256, 128, recompute=True),
    Setting(512, 48, recompute=True),
    Setting(256, 32, compile=True),
    Setting(512, 12, compile=True),
)


class SameBatch(RehearsedTransformer):
    """Random tokens and texts, made once: reading data is not measured."""

    _batch: TransformerBatch | None = None

    def batch(self, microbatch: Microbatch) -> TransformerBatch:
        if self._batch is None:
            self._batch = super().batch(microbatch)
        return self._batch


def run(cells: Cells, *, tiny: bool) -> None:
    peaks: dict[str, float] = {}
    precision = "bfloat16" if cells.device.type == "cuda" else "float32"

    def peak() -> Row:
        dtype = getattr(torch, precision)
        peaks["rate"] = square_rate(dtype, cells.device, 0.02 if tiny else 0.3)
        return {"dtype": precision, "tflops": peaks["rate"] / 1e12}

    def work(setting: Setting, budget: float) -> Row:
        if not peaks:
            peak()
        recipe = recipe_of(setting, cells.device, precision, tiny=tiny)
        return trained(recipe, setting, cells.device, peaks["rate"], budget)

    cells.cell("fastest product", peak, limit=60)
    settings = (Setting(256, 2), Setting(512, 2, recompute=True)) if tiny else SETTINGS
    cells.share({setting.key: partial(work, setting) for setting in settings}, least=0.5 if tiny else 5.0)


def recipe_of(setting: Setting, device: torch.device, precision: str, *, tiny: bool) -> TransformerRecipe:
    recipe = TransformerRecipe.read(RECIPES / f"{setting.size}.toml")
    trainer = recipe.trainer.replace(
        batch_size=setting.rows,
        accumulate=1,
        device=device.type,
        precision=precision,
        distributed="none",
        activation_checkpointing=setting.recompute,
        compile=setting.compile,
    )
    recipe = recipe.replace(trainer=trainer)
    if not tiny:
        return recipe
    sizes = recipe.transformer.replace(
        scales=(1, 2, 3), latent_channels=4, codebook_size=16, width=32, depth=2, heads=2, text=TextConditioning(12, 5)
    )
    return recipe.replace(transformer=sizes, diffusion=ResidualDiffusionConfig(16, 2))


def trained(recipe: TransformerRecipe, setting: Setting, device: torch.device, peak_rate: float, budget: float) -> Row:
    """Train up to `STEPS` steps after two warm-up steps, in about `budget` seconds."""
    memory = peak_memory(device)
    begun = time.monotonic()
    task = SameBatch(recipe, device)
    stepper = Stepper(task, recipe.trainer, DistributedContext(recipe.trainer))
    seconds: list[float] = []
    loss = 0.0
    for step in range(2 + STEPS):
        start = time.perf_counter()
        loss = stepper.step(step).read()["loss"]
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 2:
            seconds.append(time.perf_counter() - start)
        if seconds and time.monotonic() - begun + seconds[-1] > budget:
            break
    median = statistics.median(seconds)
    work = work_of(recipe)
    images = setting.rows / median
    return {
        "size": setting.size,
        "rows": setting.rows,
        "steps": len(seconds),
        "step_s": seconds,
        "median_s": median,
        "images_per_s": images,
        "tokens_an_image": work.tokens,
        "tokens_per_s": images * work.tokens,
        "tflop_an_image": work.flops / 1e12,
        "mfu": images * work.flops / peak_rate,
        "peak_gib": memory(),
        "loss": loss,
    }
