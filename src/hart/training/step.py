"""One optimisation step of a task, and all the state that a step changes: weights, optimisers, average."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from accelerate.utils import gather, reduce
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from hart.errors import HartError
from hart.training.checkpoint import require_alike
from hart.training.config import TrainerConfig
from hart.training.distributed import DistributedContext, local, shard_like, synchronized
from hart.training.optimizer import CombinedOptimizer, build_optimizer, learning_rate, weight_decay
from hart.training.progress import StepFigures
from hart.training.task import Microbatch, OptimizedModule, Task, TrainContext


class WeightAverage:
    """Averages of the trained parameters of `module`, sharded alike; call `update` after every step.

    Frozen parameters, such as those of a model with adapters, are not averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`; early steps weigh more, so that the initial weights are forgotten."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours = [local(average) for average in self.weights.values()]
        parameters = dict(module.named_parameters())
        theirs = [local(parameters[name].detach()) for name in self.weights]
        torch._foreach_lerp_(ours, theirs, weight)

    @torch.no_grad()
    def restart(self, name: str, parameter: Tensor, rows: Tensor) -> None:
        """Restart the average of some rows of a parameter at their current values."""
        self.weights[name][rows] = parameter[rows]


class Stepper(TrainContext):
    """Steps the modules of a task, in the order of `hart.training.task`; also the context passed to tasks."""

    def __init__(self, task: Task, config: TrainerConfig, distributed: DistributedContext) -> None:
        """Prepare the modules in place. Raises `HartError` if FSDP2 cannot split the task."""
        if distributed.strategy == "fsdp2" and not task.shardable:
            raise HartError('this stage is small and cannot be split over processes: choose trainer.distributed="ddp"')
        self.task = task
        self.config = config
        self.distributed = distributed
        model = next(iter(task.optimized.values())).module
        # without memory for its parameters, for `load_state_dict(assign=True)`
        self._blank = copy.deepcopy(
            model, {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
        )
        self.optimized = {
            name: _ModuleState(optimized, config, distributed) for name, optimized in task.optimized.items()
        }
        self.model = next(iter(self.optimized.values())).optimized.module
        self.average = WeightAverage(self.model, config.ema_decay)

    def microbatches(self, step: int, parts: int) -> list[Microbatch]:
        """Return the rows of this process, in `parts` microbatches."""
        size = self.config.batch_size // (self.distributed.count * parts)
        first = self.distributed.rank * parts * size
        starts = range(first, first + parts * size, size)
        return [
            Microbatch(self.config.seed, step, self.config.batch_size, slice(start, start + size)) for start in starts
        ]

    def batches(self, step: int) -> list[Any]:
        """Return the batches of a step, one per microbatch. Changes no state and does not wait for other processes."""
        try:
            with torch.no_grad():
                return [self.task.batch(microbatch) for microbatch in self.microbatches(step, self.config.accumulate)]
        except OSError as error:
            raise HartError(f"the data of a batch cannot be read: {error}; restore it and run again") from None

    def step(self, step: int, batches: Sequence[Any] | None = None) -> StepFigures:
        """Run step `step` (0-based) without waiting for the device. Its figures are the same in all processes.

        batches: from `batches`, if already made.
        Raises `HartError` if a loss or gradient is not finite, before the weights of that module change, if that is
        known at once, as on a CPU. On other devices, reading the figures raises it.
        """
        if batches is None:
            batches = self.batches(step)
        figures = StepFigures(step)
        for position, (name, state) in enumerate(self.optimized.items()):
            if step < state.optimized.start_step:
                continue
            self._require_gradients(name)
            prefix = "" if position == 0 else f"{name}_"
            self._step_module(name, state, batches, figures, prefix)
            if position == 0:
                self.average.update(self.model, step)
        self._require_gradients(*self.optimized)
        figures.know(self.task.after_step(self.microbatches(step, 1)[0], self))
        return figures

    def _require_gradients(self, *names: str) -> None:
        """Let only the trained parameters of these modules have gradients."""
        for name, state in self.optimized.items():
            for parameter in state.trainable:
                parameter.requires_grad_(name in names)

    def _step_module(
        self, name: str, state: _ModuleState, batches: Sequence[Any], figures: StepFigures, prefix: str
    ) -> None:
        config, optimizer, step = self.config, state.optimized.optimizer, figures.step
        start = state.optimized.start_step
        rate = learning_rate(step - start, config.steps - start, optimizer)
        decay = weight_decay(step - start, config.steps - start, optimizer)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
            if group["weight_decay"]:  # others do not decay
                group["weight_decay"] = decay
        state.optimized.module.train()
        state.optimizer.zero_grad()
        if state.optimized.before_losses is not None:
            with self._precision():
                state.optimized.before_losses(batches, self)
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            with synchronized(state.parallel, last=number == len(batches) - 1):
                with self._precision():
                    loss, parts = state.parallel(self.task.loss, name, batch)
                (loss / len(batches)).backward()
            for key, value in ({f"{prefix}loss": loss} | parts).items():
                sums[key] = sums.get(key, 0) + value.detach().float() / len(batches)
        # in the same order in all processes
        names = sorted(sums)
        means = self.mean(torch.stack([sums[key] for key in names]))
        limit = optimizer.gradient_clip or float("inf")
        norm = self.distributed.whole(nn.utils.clip_grad_norm_(state.trainable, limit)).float()
        figures.know({f"{prefix}learning_rate": rate})
        figures.expect([*names, f"{prefix}gradient_norm"], torch.cat([means, norm.reshape(1)]))
        if figures.arrived:
            figures.read()
        with self._precision():
            state.optimizer.step()

    def _precision(self) -> torch.autocast:
        bfloat16 = self.config.precision == "bfloat16"
        return torch.autocast(self.distributed.device.type, torch.bfloat16, enabled=bfloat16)

    def sum(self, value: Tensor) -> Tensor:
        return cast(Tensor, reduce(value, "sum"))

    def mean(self, value: Tensor) -> Tensor:
        return cast(Tensor, reduce(value, "mean"))

    def gather(self, rows: Tensor) -> Tensor:
        return cast(Tensor, gather(rows))

    def reset_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        for state in self.optimized.values():
            state.optimizer.reset_rows(parameter, rows)
        for name, known in self.model.named_parameters():
            if known is parameter:
                self.average.restart(name, parameter, rows)

    def averaged_module(self) -> nn.Module | None:
        """Return the model with its averaged weights, whole and on the CPU; None except in the main process.

        All processes must call it.
        """
        state = self.distributed.collect(self.model.state_dict() | self.average.weights)
        if not self.distributed.main:
            return None
        module = copy.deepcopy(self._blank)
        module.load_state_dict(state, assign=True)
        return module.eval().requires_grad_(False)

    def _state(self) -> dict[str, Any]:
        """Return the tensors that a step changes, not copies."""
        states = self.optimized.items()
        return {
            "modules": {name: state.optimized.module.state_dict() for name, state in states},
            "optimizers": {name: state.optimizer.state_dict() for name, state in states},
            "counters": {name: dict(state.optimized.counters) for name, state in states},
            "average": self.average.weights,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that a step changes, whole and on the CPU, in the main process. All processes must call it."""
        state = self._state()
        return self.distributed.collect(state | {"counters": tree_map(self.sum, state["counters"])})

    def check(self, saved: Any) -> None:
        """Raise `UnreadableError` unless `load_state_dict` can take this, wherever it comes from."""
        require_alike(saved, self._state(), "weights")

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from a state that passed `check`, of any number of processes."""
        state = self._state()
        tree_map(lambda own, value: local(own).copy_(local(shard_like(value, own))), state, saved)
        if not self.distributed.main:  # the sums are counted once
            tree_map(Tensor.zero_, state["counters"])


class _ModuleState:
    """A module ready for training, with its optimiser."""

    def __init__(self, optimized: OptimizedModule, config: TrainerConfig, distributed: DistributedContext) -> None:
        self.optimized = optimized
        if config.activation_checkpointing:
            for block in optimized.blocks:
                recompute(block)
        if config.compile:
            for part in (*optimized.blocks, *optimized.fused):
                part.compile()
        self.parallel = distributed.parallelize(optimized.module, optimized.blocks)
        self.trainable = [p for p in optimized.module.parameters() if p.requires_grad]
        self.optimizer: CombinedOptimizer = build_optimizer(optimized.module, optimized.optimizer)


def recompute(block: nn.Module) -> None:
    """Make a block drop its activations and recompute them in the backward pass."""
    # nothing in a block is random, so no random state need be kept
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
