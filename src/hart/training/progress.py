"""Progress of a run: cost per image, figures of its steps, throughput, time left, share of the peak (MFU)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hart.errors import HartError
from hart.inference.cost import tokenizer_training_macs, transformer_training_macs
from hart.losses.transformer_loss import MEAN_KEPT_SHARE, kept_tokens
from hart.training.config import StagedRecipe, TokenizerRecipe, TrainerConfig

RECENT = 20
"""Steps over which speed is measured."""


@dataclass(frozen=True)
class Work:
    """The work for one image in an average step.

    macs: multiply-accumulates of the forward pass. weight_macs: those of them with trained weights, whose gradients
    cost as much again. tokens: computed by the model. still_macs: those of `macs` that no gradient passes through.
    """

    macs: int
    weight_macs: int
    tokens: int
    still_macs: int = 0

    @property
    def flops(self) -> int:
        """Return FLOPs of forward pass, activation gradients and weight gradients; recomputation is not counted."""
        return 2 * (2 * self.macs - self.still_macs + self.weight_macs)


def work_of(recipe: StagedRecipe) -> Work:
    """Return the work of a recipe's step.

    With adapters, the model's weights have no gradients; with only the decoder trained, nothing before it has.
    """
    if isinstance(recipe, TokenizerRecipe):
        of = tokenizer_training_macs(recipe.tokenizer)
        still = of.search + (of.codes if recipe.decoder_only else 0)
        macs = of.codes + of.search + of.decoder
        return Work(macs, macs - still, recipe.tokenizer.schedule.total_tokens, still)
    sizes = recipe.transformer
    counts = sizes.schedule.token_counts
    last = kept_tokens(MEAN_KEPT_SHARE, counts[-1]) if recipe.drop_last_scale else counts[-1]
    macs = transformer_training_macs(sizes, recipe.diffusion, last_tokens=last)
    inputs = sum(counts[1:-1]) + last
    if recipe.lora is None:
        return Work(macs, macs, sizes.context_tokens + inputs)
    width, hidden = sizes.width, sizes.mlp_width
    # width in and out of the layers that have adapters, for each token of a block
    beside = {"attention": 6 * width, "mlp": (3 if sizes.mlp == "swiglu" else 2) * (width + hidden)}
    blocks = sum(beside.get(target, 0) for target in recipe.lora.targets)
    adapters = recipe.lora.rank * sizes.depth * (sizes.context_tokens + inputs) * blocks
    if "word_embed" in recipe.lora.targets:
        embedded = inputs + (last if recipe.diffusion is not None else 0)
        adapters += recipe.lora.rank * embedded * (sizes.latent_channels + width)
    return Work(macs + adapters, adapters, sizes.context_tokens + inputs)


class StepFigures:
    """The figures of step `step`, some of them still on their way to the host."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._known: dict[str, float] = {}
        self._coming: list[tuple[Sequence[str], Tensor, Any]] = []

    def know(self, figures: Mapping[str, float]) -> None:
        """Add numbers that are on the host."""
        self._known |= figures

    def expect(self, names: Sequence[str], values: Tensor) -> None:
        """Add numbers (N,) that are on the device, without waiting for them."""
        device = values.device
        # only NVIDIA's devices signal when a copy has arrived; from an Apple GPU it must be complete
        values = values.to("cpu", non_blocking=device.type != "mps")
        arrival = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        self._coming.append((names, values, arrival))

    @property
    def arrived(self) -> bool:
        """Return whether `read` would return at once. Always true on a CPU."""
        return all(arrival is None or arrival.query() for _, _, arrival in self._coming)

    def read(self) -> dict[str, float]:
        """Return all figures, waiting for pending ones. Raises `HartError` if a loss or gradient is not finite."""
        for names, values, arrival in self._coming:
            if arrival is not None:
                arrival.synchronize()
            self._known |= zip(names, values.tolist(), strict=True)
        self._coming = []
        for name, value in self._known.items():
            if name.endswith(("loss", "gradient_norm")) and not math.isfinite(value):
                raise HartError(
                    f"the {name.replace('_', ' ')} is {value}: go on with a lower learning rate or gradient_clip"
                )
        return self._known


class Means:
    """Averages each figure over the steps that report it."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[float, int]] = {}
        """Sum and number of each figure."""

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            total, count = self.totals.get(name, (0.0, 0))
            self.totals[name] = total + value, count + 1

    def take(self) -> dict[str, float]:
        """Return the averages since the last call."""
        means = {name: total / count for name, (total, count) in self.totals.items()}
        self.totals = {}
        return means


@dataclass(frozen=True)
class StepReport:
    """Progress of a run after a step; `figures` belong to the last step known so far, on a CPU this one."""

    step: int
    images_per_second: float
    tokens_per_second: float | None
    mfu: float | None
    figures: Mapping[str, float]


class Speed:
    """Images per second over the last `RECENT` steps, including samples and checkpoints between them."""

    def __init__(self, config: TrainerConfig, work: Work | None, peak: float, clock: Callable[[], float]) -> None:
        """work: per image; None if unknown. peak: operations per second of all devices."""
        self.config = config
        self.work = work
        self.peak = peak
        self.clock = clock
        self._ends = deque([clock()], maxlen=RECENT + 1)

    def step(self, done: int, figures: Mapping[str, float]) -> StepReport:
        """Count a step that has just ended, numbered `done` from 1."""
        self._ends.append(self.clock())
        images = self.config.batch_size * (len(self._ends) - 1)
        rate = images / max(self._ends[-1] - self._ends[0], 1e-9)
        tokens = None if self.work is None else rate * self.work.tokens
        mfu = None if self.work is None else rate * self.work.flops / self.peak
        return StepReport(done, rate, tokens, mfu, figures)
