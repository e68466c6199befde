"""Inception-v3 as used by FID: the TensorFlow graph of 2015-12-05 (Szegedy et al., 2016; Heusel et al., 2017).

Modules have the names of the widely used weight file (pt_inception-2015-12-05: `Mixed_5b.branch1x1.conv.weight` and so
on), so that it loads without a table. Three things differ from the ImageNet classifier of the same name: average pools
do not count the border, the last block uses max pooling, and there are 1,008 classes.

Shapes: B batch, H W image, C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hart.checkpoint.storage import fill_state, read_tensors
from hart.devices import without_memory

IMAGE_SIZE = 299
"""Size in pixels that every image is resized to."""
CLASSES = 1008
SPATIAL_BLOCK = "Mixed_6d"
SPATIAL_CHANNELS = 7
"""sFID uses the first channels of that block's first branch, 17 x 17 positions (Nash et al., 2021; ADM's evaluator).
They are ordered position by position with each position's channels together, as in TensorFlow and in published
statistics (`mu_s` and `sigma_s` of ADM's reference batches)."""
POOLED, SPATIAL = 2048, 17 * 17 * SPATIAL_CHANNELS
"""Lengths of the two kinds of features."""
NORM_EPS = 1e-3


class Unit(NamedTuple):
    """One convolution of the tables below. same: padded so that a stride of 1 keeps the size."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True


Step = str | Unit | tuple[Unit, Unit]
"""A pool of `POOLS`, a convolution, or two side by side whose outputs are joined by channel."""
POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "average": partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False),
    "max": partial(F.max_pool2d, kernel_size=3, stride=1, padding=1),
    "halve": partial(F.max_pool2d, kernel_size=3, stride=2),
}


def _chain(name: str, *sizes: tuple[int, int, int]) -> list[Step]:
    """Return numbered convolutions: outputs, and height and width of the kernel of each."""
    return [Unit(f"{name}_{i}", outputs, (h, w)) for i, (outputs, h, w) in enumerate(sizes, start=1)]


def _block_35(pooled: int) -> list[list[Step]]:
    return [
        [Unit("branch1x1", 64)],
        _chain("branch5x5", (48, 1, 1), (64, 5, 5)),
        _chain("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ["average", Unit("branch_pool", pooled)],
    ]


def _block_17(width: int) -> list[list[Step]]:
    return [
        [Unit("branch1x1", 192)],
        _chain("branch7x7", (width, 1, 1), (width, 1, 7), (192, 7, 1)),
        _chain("branch7x7dbl", (width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7)),
        ["average", Unit("branch_pool", 192)],
    ]


def _block_8(pool: str) -> list[list[Step]]:
    def fork(name: str) -> tuple[Unit, Unit]:
        return Unit(f"{name}a", 384, (1, 3)), Unit(f"{name}b", 384, (3, 1))

    return [
        [Unit("branch1x1", 320)],
        [Unit("branch3x3_1", 384), fork("branch3x3_2")],
        [*_chain("branch3x3dbl", (448, 1, 1), (384, 3, 3)), fork("branch3x3dbl_3")],
        [pool, Unit("branch_pool", 192)],
    ]


STEM: list[Step] = [
    Unit("Conv2d_1a_3x3", 32, (3, 3), 2, same=False),
    Unit("Conv2d_2a_3x3", 32, (3, 3), same=False),
    Unit("Conv2d_2b_3x3", 64, (3, 3)),
    "halve",
    Unit("Conv2d_3b_1x1", 80),
    Unit("Conv2d_4a_3x3", 192, (3, 3), same=False),
    "halve",
]
BLOCKS: dict[str, list[list[Step]]] = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": [  # from 35 x 35 positions to 17 x 17
        [Unit("branch3x3", 384, (3, 3), 2, same=False)],
        [*_chain("branch3x3dbl", (64, 1, 1), (96, 3, 3)), Unit("branch3x3dbl_3", 96, (3, 3), 2, same=False)],
        ["halve"],
    ],
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": [  # to 8 x 8
        [Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, (3, 3), 2, same=False)],
        [
            *_chain("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1)),
            Unit("branch7x7x3_4", 192, (3, 3), 2, same=False),
        ],
        ["halve"],
    ],
    "Mixed_7b": _block_8("average"),
    "Mixed_7c": _block_8("max"),
}


def _convolution(inputs: int, unit: Unit) -> nn.Module:
    """Convolution, batch norm with frozen statistics, ReLU."""
    padding = (unit.kernel[0] // 2, unit.kernel[1] // 2) if unit.same else 0
    conv = nn.Conv2d(inputs, unit.outputs, unit.kernel, unit.stride, padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(unit.outputs, eps=NORM_EPS), relu=nn.ReLU()))


class Paths(nn.Module):
    """Parallel paths whose outputs are joined by channel. `width`: total channels."""

    def __init__(self, inputs: int, paths: Sequence[Sequence[Step]]) -> None:
        super().__init__()
        self.paths, self.width = paths, 0
        for path in paths:
            width = inputs
            for units in (_units(step) for step in path if not isinstance(step, str)):
                for unit in units:
                    self.add_module(unit.name, _convolution(width, unit))
                width = sum(unit.outputs for unit in units)
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([reduce(self._step, path, x) for path in self.paths], dim=1)

    def _step(self, x: Tensor, step: Step) -> Tensor:
        if isinstance(step, str):
            return POOLS[step](x)
        return torch.cat([self.get_submodule(unit.name)(x) for unit in _units(step)], dim=1)


def _units(step: Unit | tuple[Unit, Unit]) -> tuple[Unit, ...]:
    return (step,) if isinstance(step, Unit) else step


@dataclass(frozen=True)
class InceptionOutput:
    """pooled: (B, 2048). spatial: (B, 2023), 17 x 17 positions of 7 channels. logits: (B, 1008) without the bias."""

    pooled: Tensor
    spatial: Tensor
    logits: Tensor


class FidInception(Paths):
    """The network with random weights; `from_file` loads the published ones."""

    def __init__(self) -> None:
        super().__init__(3, [STEM])
        width = self.width
        for name, paths in BLOCKS.items():
            block = Paths(width, paths)
            self.add_module(name, block)
            width = block.width
        self.fc = nn.Linear(width, CLASSES)
        self.eval().requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> FidInception:
        """Load the weights of pt_inception-2015-12-05-*.pth, or the same in safetensors.

        Raises `HartError` for a file that cannot be read or is of another network.
        """
        tensors = read_tensors(path)
        with without_memory():
            module = cls()
        # some copies of the file record how many batches the statistics come from; nothing reads it
        counters = {name: torch.tensor(0) for name in module.state_dict() if name.endswith("num_batches_tracked")}
        fill_state(module, tensors | counters, torch.float32, path)
        return module

    def forward(self, pixels: Tensor) -> InceptionOutput:  # type: ignore[override]
        """Take images (B, 3, 299, 299), float, 0 to 255; the caller resizes them, which is part of the FID's
        definition.

        The bias is left out of the logits, as in ADM's evaluator.
        """
        x = spatial = super().forward((pixels - 128) / 128)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
            if name == SPATIAL_BLOCK:
                spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pooled = x.mean(dim=(2, 3))
        return InceptionOutput(pooled, spatial, F.linear(pooled, self.fc.weight))


def resize_like_tensorflow(pixels: Tensor, image_size: int) -> Tensor:
    """Resize bilinearly without antialiasing, pixel i read at i * old / new, as in TensorFlow 1 and in the graph."""
    for dim in (2, 3):
        old = pixels.shape[dim]
        # on the CPU: Apple GPUs have no float64
        place = torch.arange(image_size, device="cpu", dtype=torch.float64) * (old / image_size)
        low = place.floor().long().clamp(max=old - 1)
        share = (place - low).to(pixels.device, pixels.dtype)
        low = low.to(pixels.device)
        high = (low + 1).clamp(max=old - 1)
        share = share.view(-1, 1) if dim == 2 else share
        pixels = torch.lerp(pixels.index_select(dim, low), pixels.index_select(dim, high), share)
    return pixels


def resize_like_clean_fid(pixels: Tensor, image_size: int) -> Tensor:
    """Resize images (B, 3, H, W), uint8 or float, to `image_size`, as float32: bicubic with antialiasing, not rounded.

    Like clean-fid (Parmar et al., 2022): Pillow's filter on each colour as float, then overshoots are clipped.
    """
    resized = [
        np.asarray(Image.fromarray(colour).resize((image_size, image_size), Image.Resampling.BICUBIC))
        for colour in pixels.to("cpu", torch.float32).flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255).view(*pixels.shape[:2], image_size, image_size)
