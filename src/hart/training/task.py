"""The interface between the training loop and a task: neither side knows more of the other.

A task has one or more modules, each with its own optimiser. In every step, for each of them in order:

    batch (once) -> before_losses -> loss(name, batch) -> backward -> clip -> optimiser

so that an adversarial task has two: the model, then the discriminator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from hart.data.transforms import unit_to_pil
from hart.randomness import CPU, generator_for
from hart.strict import Config
from hart.training.config import OptimizerConfig


class Origin(Config):
    """Something that a run learns from. digest: changes with the content. said: a description for people."""

    digest: str
    said: str

    def is_same(self, other: Origin | None) -> bool:
        return other is not None and other.digest == self.digest

    def told(self, other: Origin) -> str:
        """Return its description, distinct from that of the other."""
        return self.said if self.said != other.said else f"{self.said} [{self.digest[:8]}]"


@dataclass(frozen=True)
class OptimizedModule:
    """A module with its own optimiser and loss."""

    module: nn.Module
    """Shares no parameters with the task's other modules."""
    optimizer: OptimizerConfig
    blocks: Sequence[nn.Module] = ()
    """Its repeated layers, inner ones first: each is recomputed, compiled and sharded separately, as configured."""
    fused: Sequence[nn.Module] = ()
    """Parts of the loss without parameters, which are compiled if blocks are."""
    start_step: int = 0
    """First step in which it is trained; warm-up counts from there."""
    before_losses: Callable[[Sequence[Any], TrainContext], None] | None = None
    """Called in each step with all microbatches of the process, before the first loss, for what a loss must know about
    the whole batch. Runs in the configured precision and must not leave gradients."""
    counters: Mapping[str, Tensor] = field(default_factory=dict)
    """Counts of this process so far, changed in place. Checkpoints hold the sums over all processes."""


@dataclass(frozen=True)
class Microbatch:
    """The rows of a step's batch that one process computes at once.

    Make random numbers for all `batch_size` rows and keep `mine`, so that the result does not depend on the number of
    processes.
    """

    seed: int
    step: int
    batch_size: int
    rows: slice

    def generator(self, purpose: str, device: torch.device = CPU) -> torch.Generator:
        """Return a fresh generator for this purpose and step, the same in every process; see `generator_for`."""
        return generator_for(self.seed, purpose, self.step, device)

    def same(self, value: float) -> Tensor:
        """Return (batch_size, 1), one value for all rows of the batch."""
        return torch.full((self.batch_size, 1), value)

    def mine(self, sampled: Tensor) -> Tensor:
        """Return these rows of a tensor (batch_size, ...)."""
        return sampled[self.rows]


class TrainContext:
    """What a task can ask of all processes; all of them must ask. This class is for a single process."""

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the batch."""
        return rows

    def reset_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """After rows of a parameter were overwritten: clear their optimiser moments and restart their average."""


class Task(ABC):
    """Something to train."""

    shardable: bool = True
    """Whether FSDP2 may split the modules: the loss uses all parameters, and blocks only by calling them."""
    optimized: Mapping[str, OptimizedModule]
    """By name, in the order of a step. The first is the model, which is averaged and saved."""

    @property
    def sources(self) -> Mapping[str, Origin]:
        """Return what the run learns from besides the recipe, by name: data, frozen networks. Called once."""
        return {}

    def prepare(self) -> None:
        """Called once before the first step, for work that takes long; not in a dry run."""
        return

    @abstractmethod
    def batch(self, microbatch: Microbatch) -> Any:
        """Return data, outputs of frozen networks and random numbers of a microbatch, in float32 without gradients.

        Made once and passed to the loss of every module, so that one may leave something for the next.
        """

    @abstractmethod
    def loss(self, name: str, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of a module, a mean over the rows, and its terms to log; in the configured precision.

        Parameters of the other modules need no gradient during this.
        """

    def after_step(self, microbatch: Microbatch, train_context: TrainContext) -> dict[str, float]:
        """Called after each step with all rows of the process; returns figures to log, often none."""
        return {}

    def samples(self, step: int, module: nn.Module) -> Mapping[str, Image.Image]:
        """Return images by name that show the progress of `module` (the averaged weights)."""
        return {}

    @abstractmethod
    def save(self, folder: Path, module: nn.Module) -> None:
        """Write `module` (the averaged weights) as a finished model."""


def image_row(*rows: Tensor) -> Image.Image:
    """Return batches (N, 3, H, W) in [-1, 1] as rows of an image, one below the other."""
    lines = [torch.cat(list(images), dim=2) for images in rows]
    return unit_to_pil((torch.cat(lines, dim=1) + 1) / 2)
