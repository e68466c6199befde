"""An accelerator that is not there: tensors of a second device, with sizes and without content.

Under `stand_in` the device "meta" plays the GPU. Whatever brings tensors of two devices together raises, as it would on
a GPU, and what travels between the two is counted. So does what an Apple GPU has not: float64, and operators without a
kernel there by PyTorch's own table. (Fake tensors of the device "cuda" cannot be indexed by a PyTorch
that was built for CPUs.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchgen
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hart.devices import MPS_TORCH

DEVICE = torch.device("meta")
READS = frozenset(
    {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default, torch.ops.aten.is_nonzero.default}
)
NOT_ON_APPLE_GPUS = frozenset({torch.float64, torch.complex128})
OF_ANY_DEVICE = frozenset({"CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"})


class Traffic(TorchDispatchMode):
    """waits: how often the host stops until the device is ready: to read from it, or to copy from or to it
    without `non_blocking`. sent: numbers copied to the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.sent = 0

    def read(self, tensor: Tensor) -> Any:
        """True, a half or zero, in Python's numbers."""
        self.waits += tensor.device == DEVICE
        value = True if tensor.dtype == torch.bool else 0.5 if tensor.is_floating_point() else 0
        return np.full(tensor.shape, value).tolist()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            return self.read(args[0])
        if func is torch.ops.aten.detach_.default and not isinstance(args[0], FakeTensor):
            return args[0]  # as `torch.tensor` makes it without gradients
        if func.namespace == "aten" and func._can_decompose():  # made of others: without gradients it arrives whole
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        before, after = _tensors((args, kwargs)), _tensors(result)
        places = {tensor.device for tensor in before}
        _require_apple_gpu(func, [tensor for tensor in (*before, *after) if tensor.device == DEVICE])
        moved = [tensor for tensor in after if tensor.device not in places] if before else []
        sent = [tensor.numel() for tensor in moved if tensor.device == DEVICE]
        # indices on the CPU of a tensor on the device
        sent += [tensor.numel() for tensor in before if len(places) > 1 and tensor.device != DEVICE and tensor.dim()]
        self.sent += sum(sent)
        self.waits += bool(sent or moved) and not _argument(func, args, kwargs, "non_blocking")
        return result


@contextmanager
def stand_in() -> Iterator[Traffic]:
    """What a module or a tensor on `DEVICE` does inside computes nothing and checks every device."""
    with (
        patch.object(nn.Module, "_apply", _replace),
        patch.object(torch, "autocast", _Autocast),
        FakeTensorMode(allow_non_fake_inputs=True),
        Traffic() as traffic,
        patch.object(FakeTensor, "tolist", lambda tensor: traffic.read(tensor)),  # noqa: PLW0108 - a method
    ):
        yield traffic


def _require_apple_gpu(func: Any, used: Sequence[Tensor]) -> None:
    """Raise for what an operator does on the device and an Apple GPU cannot."""
    if missing := {tensor.dtype for tensor in used} & NOT_ON_APPLE_GPUS:
        raise TypeError(f"{func}: MPS has no {missing}")
    # PyTorch 2.11 and 2.12, with which MPS is not taken, have fewer kernels
    if used and torch.__version__ >= MPS_TORCH and not _on_apple_gpus(func.name().removeprefix("aten::")):
        raise NotImplementedError(f"{func}: MPS has no kernel")


@cache
def _on_apple_gpus(name: str) -> bool:
    """Whether PyTorch's table of operators has a kernel for MPS, or one for any device."""
    if (entry := _operators().get(name)) is None:  # a variant that is made of another
        return True
    if "structured_delegate" in entry:
        return _on_apple_gpus(entry["structured_delegate"])
    devices = {device.strip() for devices in entry.get("dispatch", {}) for device in devices.split(",")}
    return not devices or bool(devices & OF_ANY_DEVICE) or "MPS" in devices


@cache
def _operators() -> dict[str, Any]:
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = yaml.load(table.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {entry["func"].partition("(")[0]: entry for entry in entries}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _argument(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """What a call of an operator gives for one of its arguments; None where it has no such."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return kwargs.get(name, args[place] if place < len(args) else argument.default_value)
    return None


def _replace(self: nn.Module, move: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters: the content of tensors without content cannot be exchanged."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(move(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = move(buffer)
    return self


class _Autocast(torch.autocast):
    """Autocast that knows the stand-in, by the rules of the CPU's."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)
