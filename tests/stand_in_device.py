"""An accelerator that is not there: tensors of a second device, with sizes and without content.

Under `stand_in` the device "meta" plays the GPU. Whatever brings tensors of two devices together raises, as it would on
a GPU, and what travels between the two is counted. (Fake tensors of the device "cuda" cannot be indexed by a PyTorch
that was built for CPUs.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
READS = frozenset(
    {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default, torch.ops.aten.is_nonzero.default}
)


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
        result = func(*args, **kwargs)
        before, after = _tensors((args, kwargs)), _tensors(result)
        places = {tensor.device for tensor in before}
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
