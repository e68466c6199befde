"""What a run will take, before it starts: parameters, memory and time, from a few real steps on few pictures.

Memory of weights, gradients, moments and averages is counted. Activations and time are measured on a small batch and
grow in proportion to its size; where `depth` says that the task was built with fewer blocks, in proportion to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hart.training.config import TrainerConfig
from hart.training.distributed import Processes
from hart.training.step import Stepper
from hart.training.task import Task

MEASURED_ROWS = 2
"""Pictures of the measured steps."""
FLOAT_BYTES = 4
MOMENTS = {"adamw": 2, "muon": 1}
"""Numbers kept for each parameter; Muon's matrices have one, and are nearly all."""


@dataclass(frozen=True)
class Measurement:
    """Of one process: bytes that the forward pass keeps for the backward pass, and seconds of a step.

    rows: pictures they were measured on.
    """

    rows: int
    activation_bytes: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What one process needs, in bytes, and the seconds of a step of the whole batch."""

    parameters: int
    trained: int
    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    checkpoint: int
    step_seconds: float

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.activations


def measure(
    task: Task, config: TrainerConfig, processes: Processes, clock: Callable[[], float] = time.perf_counter
) -> Measurement:
    """Two steps on a few pictures; the first warms up and is not timed."""
    rows = min(config.batch_size // processes.count, MEASURED_ROWS) * processes.count
    stepper = Stepper(task, config.replace(batch_size=rows, accumulate=1), processes)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for part in task.parts.values() for p in part.module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # frozen networks of the loss are no part of the task, and their weights do not grow with the batch either
        if storage.data_ptr() not in weights and not isinstance(tensor, nn.Parameter):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.no_grad():
        batch = task.batch(stepper.share(0))
    model = next(iter(task.parts))
    stepper.before_losses(model, [batch])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = stepper.forward(model, batch)
    del loss
    stepper.step(0)
    start = clock()
    stepper.step(1)
    return Measurement(rows // processes.count, sum(kept.values()), clock() - start)


def deeper(one: Measurement, two: Measurement, depth: int) -> Measurement:
    """From measurements with one and two blocks to one with `depth`: each block adds the same."""

    def line(first: float, second: float) -> float:
        return first + (depth - 1) * max(second - first, 0.0)

    return Measurement(
        one.rows, round(line(one.activation_bytes, two.activation_bytes)), line(one.seconds, two.seconds)
    )


def estimate(
    parameters: int,
    trained: int,
    optimizer: str,
    config: TrainerConfig,
    measurement: Measurement,
    *,
    processes: int,
    sharded: bool,
) -> Estimate:
    """Scale a measurement to the recipe's batch; `sharded` spreads all that belongs to weights over the processes."""
    share = config.batch_size // processes
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
        activations=measurement.activation_bytes * share // (config.accumulate * measurement.rows),
        checkpoint=FLOAT_BYTES * (parameters + (1 + MOMENTS[optimizer]) * trained),
        step_seconds=measurement.seconds * share / measurement.rows,
    )
