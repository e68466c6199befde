"""Perceptual distance of two images in the features of a frozen classifier (Johnson et al., 2016; Zhang et al., 2018).

Two kinds, chosen by name with `perceptual_loss`; neither ever stands in for the other:

- `lpips`: LPIPS with VGG-16, what the paper's tokenizer was trained with. Its weights are in no package: give the
  published files.
- `efficientnet_lite0`: features of EfficientNet-Lite0, whose weights come as a package. It is not LPIPS: no linear
  heads are calibrated on human judgements, and its values are not comparable to LPIPS values.

Shapes: B batch, H W image, C channels of a feature map, h w its height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.checkpoint.storage import fill_module, load_state, read_tensors
from hart.errors import HartError
from hart.networks.efficientnet import PIXEL_MEAN, PIXEL_SCALE, efficientnet_lite

# From [-1, 1] to the input of EfficientNet-Lite0.
INPUT_SCALE, INPUT_SHIFT = 127.5 / PIXEL_SCALE, (127.5 - PIXEL_MEAN) / PIXEL_SCALE
# Outputs of these blocks end the resolutions 1/2, 1/4, 1/8 and 1/16.
FEATURE_BLOCKS = (0, 2, 4, 10)

# VGG-16 (Simonyan and Zisserman, 2015; configuration D): channels and number of convolutions of each resolution.
VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# The numbers that its convolutions have in torchvision, which counts activations and pools too.
VGG_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# LPIPS's scaling of an image in [-1, 1] to the inputs that VGG-16 was trained on, one number a colour.
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
LPIPS_EPS = 1e-10


def perceptual_loss(
    kind: Literal["lpips", "efficientnet_lite0"], files: Sequence[str | Path] = ()
) -> PerceptualDistance:
    """The perceptual loss called `kind`, frozen.

    files: for `lpips` the weights, in any order, see `Lpips.from_files`; for `efficientnet_lite0` none, or one in place
        of its package of weights. Raises `HartError` where they are missing, too many, or do not fit.
    """
    if kind == "lpips":
        return Lpips.from_files([Path(file) for file in files])
    if len(files) > 1:
        raise HartError(
            f"the perceptual loss {kind!r} takes one weight file or none: leave them out, or choose 'lpips'"
        )
    return EfficientNetLitePerceptualLoss(Path(files[0]) if files else None)


class PerceptualDistance(nn.Module):
    """A distance of images in the features of a network."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W) in [-1, 1] to feature maps (B, C, h, w), each of unit length over its channels."""
        raise NotImplementedError

    def compared(self, differences: list[Tensor]) -> Tensor:
        """(B,): the distance that squared differences of the feature maps make."""
        raise NotImplementedError

    def distances(self, image: Tensor, target: Tensor) -> Tensor:
        """(B,): of each pair of images (B, 3, H, W) in [-1, 1]; differentiable in `image` only."""
        with torch.no_grad():
            wanted = self.features(target)
        return self.compared([(a - b).square() for a, b in zip(self.features(image), wanted, strict=True)])

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Scalar: the batch's mean of `distances`."""
        return self.distances(image, target).mean()


class Lpips(PerceptualDistance):
    """LPIPS, version 0.1, with VGG-16: squared differences of unit-length features, weighted by learned heads.

    Made with random weights; `from_files` loads the published ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width = 3
        for channels, convolutions in VGG_STAGES:
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if self.stages else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
            self.stages.append(nn.Sequential(*layers))
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels, _ in VGG_STAGES)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> Lpips:
        """LPIPS with the published weights: `.pth` or `.safetensors` files that together hold

        - the trunk, as torchvision stores VGG-16 (`vgg16-397923af.pth`): `features.N.weight` (C_out, C_in, 3, 3) and
          `features.N.bias` (C_out,), N = 0, 2 (64 channels), 5, 7 (128), 10, 12, 14 (256), 17, 19, 21, 24, 26, 28
          (512); `classifier.*` is ignored;
        - the heads, as LPIPS 0.1 stores them (`vgg.pth` in `weights/v0.1` of the package `lpips`):
          `lin0.model.1.weight` (1, 64, 1, 1) to `lin4.model.1.weight` (1, 512, 1, 1), with 64, 128, 256, 512 and 512
          channels.

        Raises `HartError` for missing and wrongly shaped tensors.
        """
        if not files:
            raise HartError(
                "the perceptual loss 'lpips' needs weights: give torchvision's VGG-16 file (vgg16-*.pth) and LPIPS's "
                "heads (vgg.pth), or choose 'efficientnet_lite0', which needs none"
            )
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= read_tensors(file)
        module, source = cls(), ", ".join(map(str, files))
        names = _published_names(module)
        if missing := [theirs for theirs in names.values() if theirs not in tensors]:
            part = "the VGG-16 trunk" if missing[0].startswith("features") else "LPIPS's heads"
            raise HartError(f"{source}: no {', '.join(missing[:3])} in it: give the file with {part} too")
        load_state(module, {ours: tensors[theirs] for ours, theirs in names.items()}, source, names.__getitem__)
        return module

    def features(self, image: Tensor) -> list[Tensor]:
        h = (image - self.shift) / self.scale
        maps = []
        for stage in self.stages:
            h = stage(h)
            # vector_norm has a gradient of zero, not NaN, where no channel is active
            maps.append(h / (torch.linalg.vector_norm(h, dim=1, keepdim=True) + LPIPS_EPS))
        return maps

    def compared(self, differences: list[Tensor]) -> Tensor:
        pairs = zip(self.heads, differences, strict=True)
        return torch.stack([head(difference).mean(dim=(1, 2, 3)) for head, difference in pairs]).sum(dim=0)


def _published_names(module: Lpips) -> dict[str, str]:
    """The tensors of `module` -> their names in the published files."""
    ours = (name for name, layer in module.stages.named_modules() if isinstance(layer, nn.Conv2d))
    trunk = {f"stages.{name}.": f"features.{number}." for name, number in zip(ours, VGG_NUMBERS, strict=True)}
    names = {our + kind: their + kind for our, their in trunk.items() for kind in ("weight", "bias")}
    return names | {f"heads.{i}.weight": f"lin{i}.model.1.weight" for i in range(len(VGG_STAGES))}


class EfficientNetLitePerceptualLoss(PerceptualDistance):
    """Mean squared difference of channel-normalised features, averaged over four resolutions.

    Raises `HartError` when its two packages are not installed, of which a file takes the place of the second.
    """

    def __init__(self, file: Path | None = None) -> None:
        """file: the state of such a module, of a machine that has the packages."""
        super().__init__()
        network = efficientnet_lite(0, weights=file is None)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: FEATURE_BLOCKS[-1] + 1])
        if file is not None:
            fill_module(self, file, torch.float32)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLitePerceptualLoss:
        """Stays in evaluation mode: its batch statistics are frozen."""
        return super().train(False)

    def features(self, image: Tensor) -> list[Tensor]:
        h = self.stem(image * INPUT_SCALE + INPUT_SHIFT)
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in FEATURE_BLOCKS:
                maps.append(F.normalize(h, dim=1))
        return maps

    def compared(self, differences: list[Tensor]) -> Tensor:
        return torch.stack([difference.sum(dim=1).mean(dim=(1, 2)) for difference in differences]).mean(dim=0)
