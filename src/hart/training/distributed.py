"""Several processes: how many there are, how they exchange tensors, and how a module is distributed over them.

`torchrun` (or `accelerate launch`) starts the processes; accelerate sets up their group and devices. This is the only
module that uses `torch.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from hart.devices import resolve_device
from hart.errors import HartError
from hart.strict import counted, reason
from hart.training.config import TrainerConfig

T = TypeVar("T")

LAUNCH = "torchrun --nproc-per-node N -m hart train ..."
START = f"start several processes with {LAUNCH}, or one without it"
MEETING = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that processes need to find each other."""


def launched() -> int:
    """Return the number of processes launched. Raises `HartError` for variables that do not come from a launcher."""
    texts = {name: os.environ.get(name) or default for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"))}
    for name, text in texts.items():
        if not text.isdecimal():
            raise HartError(f"the environment variable {name} is {text[:40]!r}, not a number: {START}")
    world, rank = map(int, texts.values())
    if rank >= world:  # PyTorch would wait for the others
        raise HartError(f"the environment variable RANK is {rank} of {counted(world, 'process')}: {START}")
    missing = [name for name in MEETING if not os.environ.get(name)]
    if world > 1 and missing and not distributed.is_initialized():
        raise HartError(f"the environment variable {missing[0]} is not set: {START}")
    return world


class DistributedContext:
    """This process among those that train together; a single process is a group of one."""

    def __init__(self, config: TrainerConfig) -> None:
        """Join the other processes, if any. Raises `HartError` for a device or launch that does not fit the recipe."""
        alone = launched() == 1
        if config.distributed == "none" and not alone:
            raise HartError('trainer.distributed is "none", but several processes were launched: set it to "auto"')
        if ":" in config.device and not alone:
            raise HartError(f"trainer.device {config.device!r}: each process takes its own GPU; give cuda")
        resolve_device(config.device)
        try:
            self._state = PartialState(cpu=config.device == "cpu")
        except (ValueError, RuntimeError, OSError) as error:
            raise HartError(f"the processes cannot join each other ({reason(error)}): {START}") from None
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index
        self.device = torch.device(config.device) if alone else self._state.device
        self.strategy = self._strategy(config)
        # what processes exchange every step goes from host to host, past the devices and their work
        over_devices = self.count > 1 and distributed.get_backend() != "gloo"
        self._hosts = distributed.new_group(backend="gloo") if over_devices else None
        if config.batch_size % (config.accumulate * self.count):
            raise HartError(
                f"trainer.batch_size {config.batch_size} / accumulate {config.accumulate} cannot be shared evenly by "
                f"{counted(self.count, 'process')}: change one of them"
            )

    def _strategy(self, config: TrainerConfig) -> Literal["none", "ddp", "fsdp2"]:
        chosen = config.distributed
        if chosen == "auto":
            sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
            chosen = "fsdp2" if sharded else "ddp" if self.count > 1 else "none"
        if chosen == "fsdp2" and not distributed.is_initialized():
            raise HartError(f"fsdp2 splits the model over processes, but only one was started: {LAUNCH}")
        return "none" if chosen == "ddp" and self.count == 1 else chosen

    @property
    def main(self) -> bool:
        """Return whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        self._state.wait_for_everyone()

    def from_main(self, make: Callable[[], T]) -> T:
        """Send the result of `make` in the main process to all: for slow work with the same result everywhere."""
        if self.count == 1:
            return make()
        # a separate group, since reading a large set takes longer than a step may
        group = distributed.new_group(backend="gloo", timeout=timedelta(days=1))
        made = [make() if self.main else None]
        distributed.broadcast_object_list(made, group=group)
        distributed.destroy_process_group(group)
        return cast(T, made[0])

    def largest(self, number: int) -> int:
        """Return the largest number among all processes."""
        if self.count == 1:
            return number
        value = torch.tensor(number)
        distributed.all_reduce(value, distributed.ReduceOp.MAX, group=self._hosts)
        return int(value)

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a sharded tensor put together, in all processes; other tensors unchanged."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def collect(self, tree: Any) -> Any:
        """Return nested containers with sharded tensors put together, on the CPU; empty except in the main process.

        All processes must call it. Tensors are handled one by one, so that a device holds at most one whole tensor.
        """

        def collected(leaf: Tensor) -> Tensor | None:
            full = self.whole(leaf)
            return full.detach().cpu() if self.main else None

        return tree_map(collected, tree)

    def parallelize(self, module: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
        """Return a `Forward` of `module`, whose backward passes end with gradients averaged over all processes.

        They exchange gradients (DDP), or weights too (FSDP2, which shards its parameters in place).
        """
        forward = Forward(module)
        if self.strategy == "fsdp2":
            for block in blocks:
                fully_shard(block)
            # the root is sharded again after use, so that nothing outdated stays in memory between steps
            fully_shard(forward, reshard_after_forward=True)
        elif self.strategy == "ddp":
            return DistributedDataParallel(forward)
        return forward


class Forward(nn.Module):
    """Runs any function as the forward pass of `module`.

    A loss calls several methods of a model, but the hooks of DDP and FSDP2 fire on one forward pass: this one.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


@contextmanager
def synchronized(parallel: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients of a parallelized module in this backward pass only if it is the last of the step."""
    if isinstance(parallel, FSDPModule):
        parallel.set_requires_gradient_sync(last)
        yield
    elif isinstance(parallel, DistributedDataParallel) and not last:
        with parallel.no_sync():
            yield
    else:
        yield


def local(tensor: Tensor) -> Tensor:
    """Return the shard that this process holds, as a view; tensors that are not sharded are returned unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a whole tensor if and as `like` is; every process must pass the same value."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
