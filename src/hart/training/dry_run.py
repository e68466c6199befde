"""What a run will take, before it starts: memory, counted on tensors without content, and time, from real steps.

The memory of weights, gradients, moments and averages follows from their number. That of activations is what the real
forward and backward pass of a process's whole share hold at once, run on tensors that have sizes only: nothing is
computed, and any model fits. Time is measured on few pictures and grows in proportion to their number.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hart.training.config import TrainerConfig
from hart.training.distributed import Processes
from hart.training.step import Stepper, recompute
from hart.training.task import Share, Task

MEASURED_TOKENS = 4096
"""A measured step has so many tokens or fewer, but one picture at least."""
LONG = 10.0
"""Seconds of a first step after which no second one is needed: warming up is then a small part of it."""
FLOAT_BYTES = 4
MOMENTS = {"adamw": 2, "muon": 1}
"""Numbers kept for each parameter; Muon's matrices have one, and are nearly all."""


@dataclass(frozen=True)
class Measurement:
    """Seconds that one process takes for a step of `rows` pictures."""

    rows: int
    seconds: float

    def seconds_of(self, rows: int) -> float:
        """Of a step of so many pictures of a process: in proportion."""
        return self.seconds * rows / self.rows


@dataclass(frozen=True)
class Estimate:
    """What one process needs, in bytes."""

    parameters: int
    trained: int
    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    checkpoint: int

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.activations


def measure(
    task: Task,
    config: TrainerConfig,
    processes: Processes,
    tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Time a step of pictures of `tokens` tokens, after one to warm up where that is not long."""
    rows = max(1, min(config.batch_size // processes.count, MEASURED_TOKENS // tokens))
    stepper = Stepper(task, config.replace(batch_size=rows * processes.count, accumulate=1), processes)
    seconds = 0.0
    for step in range(2):
        start = clock()
        stepper.step(step)
        seconds = clock() - start
        if seconds > LONG:
            break
    return Measurement(rows, seconds)


def deeper(one: Measurement, two: Measurement, depth: int) -> Measurement:
    """From measurements with one and two blocks to one with `depth`: each block adds the same."""
    return Measurement(one.rows, one.seconds + (depth - 1) * max(two.seconds - one.seconds, 0.0))


def activation_bytes(task: Task, config: TrainerConfig, rows: int) -> int:
    """The most that forward and backward pass of `rows` pictures hold at once beside weights and their gradients.

    Results that only the backward pass needs, copies of weights in bfloat16 and intermediate results are inside; what
    the optimiser needs while it works is not. The kernels are the CPU's, whatever the device of the run.
    task: on the CPU or without memory; its weights lose their content.
    """
    trained: dict[str, list[nn.Parameter]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True), _LiveBytes() as live:
        for name, part in task.parts.items():
            trained[name] = _hollow(part.module)
            if config.activation_checkpointing:
                for block in part.blocks:
                    recompute(block)
        before = live.now
        with torch.no_grad():
            batch = task.batch(Share(config.seed, 0, rows, slice(0, rows)))
        live.peak = live.now
        for name, part in task.parts.items():
            for other, parameters in trained.items():
                for parameter in parameters:
                    parameter.requires_grad_(other == name)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
                if part.before_losses is not None:
                    part.before_losses([batch], _Alone())
                loss, _ = task.loss(name, batch)
            loss.backward()
            del loss
    return live.peak - before


def _hollow(module: nn.Module) -> list[nn.Parameter]:
    """Exchange all parameters for ones on the CPU as the present mode makes them; those to train, with gradients."""
    trained = []
    for owner in module.modules():
        for name, old in list(owner.named_parameters(recurse=False)):
            new = nn.Parameter(torch.empty_like(old, device="cpu"), requires_grad=old.requires_grad)
            if old.requires_grad:
                new.grad = torch.empty_like(new)
                trained.append(new)
            setattr(owner, name, new)
    return trained


class _LiveBytes(TorchDispatchMode):
    """Adds up the memory of all tensors that operations make, for as long as they live.

    now: bytes at present. peak: the most there were at once; may be set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:  # neither a view nor changed in place
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)


class _Alone:
    """The `Engine` of a process that has no others."""

    def sum(self, value: Tensor) -> Tensor:
        return value

    def mean(self, value: Tensor) -> Tensor:
        return value

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def forget(self, parameter: nn.Parameter, rows: Tensor) -> None: ...


def estimate(
    parameters: int,
    trained: int,
    optimizer: str,
    activations: int,
    *,
    processes: int,
    sharded: bool,
) -> Estimate:
    """Memory by kind.

    activations: bytes, of one process. sharded: spread all that belongs to weights over the processes.
    """
    split = processes if sharded else 1
    weights = parameters * FLOAT_BYTES // split
    gradients = trained * FLOAT_BYTES // split
    return Estimate(
        parameters=parameters,
        trained=trained,
        weights=weights,
        gradients=gradients,
        moments=gradients * MOMENTS[optimizer],
        average=gradients,
        activations=activations,
        checkpoint=FLOAT_BYTES * (parameters + (1 + MOMENTS[optimizer]) * trained),
    )
