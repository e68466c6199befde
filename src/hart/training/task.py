"""What the training loop asks of a task, and what it offers in return. Neither side knows more of the other.

A task has one or more parts, each a module with an optimiser of its own. In every step, for every part in order:

    batch (once) -> before_losses -> loss(part, batch) -> backward -> clip -> optimiser

so that an adversarial task is two parts: the model, then the discriminator.
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
from hart.training.config import OptimizerConfig


@dataclass(frozen=True)
class Origin:
    """Something that a run learns from. digest: changes with its content; said: what it is, for people."""

    digest: str
    said: str

    def told(self, other: Origin) -> str:
        """For people, so that it can be told from the other."""
        return self.said if self.said != other.said else f"{self.said} [{self.digest[:8]}]"


@dataclass(frozen=True)
class OptimizedModule:
    """Parameters that are stepped together, by the gradient of their own loss."""

    module: nn.Module
    """Holds the part's parameters and no other part's."""
    optimizer: OptimizerConfig
    blocks: Sequence[nn.Module] = ()
    """Its repeated layers, inner ones first: computed again, compiled and sharded one by one where that is asked."""
    start_step: int = 0
    """The first step that steps this part; warm-up counts from there."""
    before_losses: Callable[[Sequence[Any], TrainContext], None] | None = None
    """Called in each step with all batches of the process before the first of them is given to the loss, for what a
    loss must know of the whole batch. Runs in the configured precision and may not leave gradients."""
    counters: Mapping[str, Tensor] = field(default_factory=dict)
    """What the steps of this process have counted so far, changed in place. Checkpoints hold the sums over all."""


@dataclass(frozen=True)
class Microbatch:
    """The rows of a step's batch that one process computes at once.

    Draw random numbers for all `batch_size` rows and keep `mine`: then the result does not depend on how many
    processes share the batch.
    """

    seed: int
    step: int
    batch_size: int
    rows: slice

    def generator(self, purpose: str, device: torch.device = CPU) -> torch.Generator:
        """The generator of everything drawn for `purpose` in this step, the same in every process.

        device: where large amounts are needed; see `generator_for`.
        """
        return generator_for(self.seed, purpose, self.step, device)

    def mine(self, sampled: Tensor) -> Tensor:
        """The rows of this process of a tensor (batch_size, ...)."""
        return sampled[self.rows]


class TrainContext:
    """What a task may ask for of all processes, all of which must ask. This one is of a process that has no others."""

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of the batch."""
        return rows

    def reset_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Rows of a parameter were set anew: clear their optimiser moments and start their average there."""


class Task(ABC):
    """One thing to train."""

    shardable: bool = True
    """Whether FSDP2 may split the module: all parameters are used inside the loss, blocks only by calling them."""
    optimized: Mapping[str, OptimizedModule]
    """By name, in the order of the step. The first is the model: it is averaged and saved."""

    @property
    def sources(self) -> Mapping[str, Origin]:
        """What is learned from beside the recipe, by name: the data, frozen networks. Asked for once."""
        return {}

    def prepare(self) -> None:
        """Called once before the first step, for work that takes long (not before a dry run)."""
        return

    @abstractmethod
    def batch(self, microbatch: Microbatch) -> Any:
        """Data, frozen networks and random numbers of a share, in float32 and without gradients.

        Made once and given to the loss of every part, so that a part may leave something for the next.
        """

    @abstractmethod
    def loss(self, name: str, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss, a mean over the rows, and its parts to log; runs in the configured precision.

        The parameters of the other parts need no gradient meanwhile.
        """

    def after_step(self, microbatch: Microbatch, train_context: TrainContext) -> dict[str, float]:
        """Called after each step, with all rows of the process; returns figures to log, often none."""
        return {}

    def samples(self, step: int, module: nn.Module) -> Mapping[str, Image.Image]:
        """Images that show how far `module` (the averaged weights) is, by name."""
        return {}

    @abstractmethod
    def save(self, folder: Path, module: nn.Module) -> None:
        """Write `module` (the averaged weights) as a finished model."""


def image_row(*rows: Tensor) -> Image.Image:
    """Batches (N, 3, H, W) in [-1, 1], each laid out as one row, under each other."""
    lines = [torch.cat(list(images), dim=2) for images in rows]
    return unit_to_pil((torch.cat(lines, dim=1) + 1) / 2)
