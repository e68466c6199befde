"""Inception-v3 as FID has it: the TensorFlow graph of 2015-12-05 (Szegedy et al., 2016; Heusel et al., 2017).

Modules carry the names of the widely used weight file (pt_inception-2015-12-05: `Mixed_5b.branch1x1.conv.weight` and so
on), so that it loads without a table. Three things differ from the ImageNet classifier of the same name: average pools
do not count the border, the last block pools by maximum, and there are 1,008 classes.

Shapes: B batch, H W image, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hart.checkpoint.storage import fill_state, read_tensors
from hart.devices import without_memory

IMAGE_SIZE = 299
"""Pixels to which every image is resized."""
CLASSES = 1008
SPATIAL_BLOCK = "Mixed_6d"
SPATIAL_CHANNELS = 7
"""sFID reads the first channels of that block's first branch, 17 x 17 positions (Nash et al., 2021; ADM's evaluator).

Position by position, the channels of each together, as TensorFlow lays them out: published statistics (`mu_s` and
`sigma_s` of ADM's reference batches) are in this order."""
NORM_EPS = 1e-3


class Unit(NamedTuple):
    """One convolution of the table below. same: padded so that a stride of 1 keeps the size."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True


class Branch:
    """A path through a block: a pool if any, convolutions in turn, and at the end perhaps two side by side."""

    def __init__(
        self,
        *units: Unit,
        fork: tuple[Unit, ...] = (),
        pool: Literal["average", "max", "halve"] | None = None,
    ) -> None:
        self.units, self.fork, self.pool = units, fork, pool

    def width(self, inputs: int) -> int:
        """Channels of its output."""
        return sum(unit.outputs for unit in self.fork or self.units[-1:]) or inputs


class ConvUnit(nn.Module):
    """Convolution, batch norm with frozen statistics, ReLU."""

    def __init__(self, inputs: int, unit: Unit) -> None:
        super().__init__()
        padding = (unit.kernel[0] // 2, unit.kernel[1] // 2) if unit.same else 0
        self.conv = nn.Conv2d(inputs, unit.outputs, unit.kernel, unit.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(unit.outputs, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class MixedBlock(nn.Module):
    """Parallel branches, joined by channel."""

    def __init__(self, inputs: int, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.branches = tuple(branches)
        for branch in branches:
            width = inputs
            for unit in branch.units:
                self.add_module(unit.name, ConvUnit(width, unit))
                width = unit.outputs
            for unit in branch.fork:
                self.add_module(unit.name, ConvUnit(width, unit))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._branch(branch, x) for branch in self.branches], dim=1)

    def _branch(self, branch: Branch, x: Tensor) -> Tensor:
        if branch.pool == "average":
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif branch.pool == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        elif branch.pool == "halve":
            x = F.max_pool2d(x, 3, stride=2)
        for unit in branch.units:
            x = self.get_submodule(unit.name)(x)
        if branch.fork:
            x = torch.cat([self.get_submodule(unit.name)(x) for unit in branch.fork], dim=1)
        return x


def _block_35(pooled: int) -> list[Branch]:
    return [
        Branch(Unit("branch1x1", 64)),
        Branch(Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, (5, 5))),
        Branch(Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, (3, 3)), Unit("branch3x3dbl_3", 96, (3, 3))),
        Branch(Unit("branch_pool", pooled), pool="average"),
    ]


def _block_17(width: int) -> list[Branch]:
    return [
        Branch(Unit("branch1x1", 192)),
        Branch(Unit("branch7x7_1", width), Unit("branch7x7_2", width, (1, 7)), Unit("branch7x7_3", 192, (7, 1))),
        Branch(
            Unit("branch7x7dbl_1", width),
            Unit("branch7x7dbl_2", width, (7, 1)),
            Unit("branch7x7dbl_3", width, (1, 7)),
            Unit("branch7x7dbl_4", width, (7, 1)),
            Unit("branch7x7dbl_5", 192, (1, 7)),
        ),
        Branch(Unit("branch_pool", 192), pool="average"),
    ]


def _block_8(pool: Literal["average", "max"]) -> list[Branch]:
    return [
        Branch(Unit("branch1x1", 320)),
        Branch(
            Unit("branch3x3_1", 384),
            fork=(Unit("branch3x3_2a", 384, (1, 3)), Unit("branch3x3_2b", 384, (3, 1))),
        ),
        Branch(
            Unit("branch3x3dbl_1", 448),
            Unit("branch3x3dbl_2", 384, (3, 3)),
            fork=(Unit("branch3x3dbl_3a", 384, (1, 3)), Unit("branch3x3dbl_3b", 384, (3, 1))),
        ),
        Branch(Unit("branch_pool", 192), pool=pool),
    ]


STEM = (
    Unit("Conv2d_1a_3x3", 32, (3, 3), 2, same=False),
    Unit("Conv2d_2a_3x3", 32, (3, 3), same=False),
    Unit("Conv2d_2b_3x3", 64, (3, 3)),
    Unit("Conv2d_3b_1x1", 80),
    Unit("Conv2d_4a_3x3", 192, (3, 3), same=False),
)
POOL_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
BLOCKS = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": [  # from 35 x 35 positions to 17 x 17
        Branch(Unit("branch3x3", 384, (3, 3), 2, same=False)),
        Branch(
            Unit("branch3x3dbl_1", 64),
            Unit("branch3x3dbl_2", 96, (3, 3)),
            Unit("branch3x3dbl_3", 96, (3, 3), 2, same=False),
        ),
        Branch(pool="halve"),
    ],
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": [  # to 8 x 8
        Branch(Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, (3, 3), 2, same=False)),
        Branch(
            Unit("branch7x7x3_1", 192),
            Unit("branch7x7x3_2", 192, (1, 7)),
            Unit("branch7x7x3_3", 192, (7, 1)),
            Unit("branch7x7x3_4", 192, (3, 3), 2, same=False),
        ),
        Branch(pool="halve"),
    ],
    "Mixed_7b": _block_8("average"),
    "Mixed_7c": _block_8("max"),
}


@dataclass(frozen=True)
class InceptionOutput:
    """pooled: (B, 2048). spatial: (B, 2023), 17 x 17 positions of 7 channels. logits: (B, 1008) without the bias."""

    pooled: Tensor
    spatial: Tensor
    logits: Tensor


class FidInception(nn.Module):
    """The network with random weights; `from_file` loads the published ones."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for unit in STEM:
            self.add_module(unit.name, ConvUnit(width, unit))
            width = unit.outputs
        for name, branches in BLOCKS.items():
            self.add_module(name, MixedBlock(width, branches))
            width = sum(branch.width(width) for branch in branches)
        self.fc = nn.Linear(width, CLASSES)
        self.eval().requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> FidInception:
        """With the weights of pt_inception-2015-12-05-*.pth, or the same in safetensors.

        Raises `CheckpointError` for a file that cannot be read or is of another network.
        """
        tensors = read_tensors(path)
        with without_memory():
            module = cls()
        # how many batches the statistics were gathered from is in some copies of the file; nothing reads it
        counters = {name: torch.tensor(0) for name in module.state_dict() if _is_counter(name)}
        fill_state(module, tensors | counters, torch.float32, path)
        return module

    def forward(self, pixels: Tensor) -> InceptionOutput:
        """Images (B, 3, 299, 299), float, 0 to 255; how they are resized is the caller's choice, and part of the FID.

        The bias is left out of the logits, as in ADM's.
        """
        x = (pixels - 128) / 128
        for unit in STEM:
            x = self.get_submodule(unit.name)(x)
            if unit.name in POOL_AFTER:
                x = F.max_pool2d(x, 3, stride=2)
        spatial = x
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
            if name == SPATIAL_BLOCK:
                spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pooled = x.mean(dim=(2, 3))
        return InceptionOutput(pooled, spatial, F.linear(pooled, self.fc.weight))


def resize_like_tensorflow(pixels: Tensor, image_size: int) -> Tensor:
    """Bilinear, without antialiasing, pixel i read at i * old / new: what TensorFlow 1 does and the graph relies on."""
    for dim in (2, 3):
        old = pixels.shape[dim]
        place = torch.arange(image_size, device=pixels.device, dtype=torch.float64) * (old / image_size)
        low = place.floor().long().clamp(max=old - 1)
        high = (low + 1).clamp(max=old - 1)
        share = (place - low).to(pixels.dtype)
        share = share.view(-1, 1) if dim == 2 else share
        pixels = torch.lerp(pixels.index_select(dim, low), pixels.index_select(dim, high), share)
    return pixels


def resize_like_clean_fid(pixels: Tensor, image_size: int) -> Tensor:
    """Images (B, 3, H, W), uint8 or float, to `image_size`, as float32: bicubic with antialiasing, not rounded.

    As clean-fid does (Parmar et al., 2022): Pillow's filter on each colour as float, then what overshoots is cut off.
    """
    resized = [
        np.asarray(Image.fromarray(colour).resize((image_size, image_size), Image.Resampling.BICUBIC))
        for colour in pixels.to("cpu", torch.float32).flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255).view(*pixels.shape[:2], image_size, image_size)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
