"""Perceptual distance of two images in the features of a frozen classifier (Johnson et al., 2016; Zhang et al., 2018).

There are two kinds, chosen by name with `perceptual_loss`; neither ever replaces the other:

- `lpips`: LPIPS with VGG-16, with which the paper's tokenizer was trained. Its weights are in no package: give the
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
# LPIPS's scaling of an image in [-1, 1] to the inputs that VGG-16 was trained on, one number per colour.
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
LPIPS_EPS = 1e-10


def perceptual_loss(
    kind: Literal["lpips", "efficientnet_lite0"], files: Sequence[str | Path] = ()
) -> PerceptualDistance:
    """Return the perceptual loss called `kind`, frozen.

    files: for `lpips` the weights, in any order, see `Lpips.from_files`; for `efficientnet_lite0` none, or one to
        replace its weights package. Raises `HartError` if files are missing, too many, or do not fit.
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

    def maps(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, 3, H, W) in [-1, 1] to feature maps (B, C, h, w), each of unit length over its channels."""
        raise NotImplementedError

    def compared(self, differences: list[Tensor]) -> Tensor:
        """Return (B,), the distance from squared differences of the feature maps."""
        raise NotImplementedError

    def distances(self, image: Tensor, target: Tensor) -> Tensor:
        """Return (B,), the distance of each pair of images (B, 3, H, W) in [-1, 1]; differentiable in `image` only."""
        with torch.no_grad():
            wanted = self.maps(target)
        return self.compared([(a - b).square() for a, b in zip(self.maps(image), wanted, strict=True)])

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the batch mean of `distances`, a scalar."""
        return self.distances(image, target).mean()


class Lpips(PerceptualDistance):
    """LPIPS, version 0.1, with VGG-16: squared differences of unit-length features, weighted by learned heads.

    Made with random weights; `from_files` loads the published ones, which have the same parameter names.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for i, (channels, convolutions) in enumerate(VGG_STAGES):
            layers += [nn.MaxPool2d(2)] if layers else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{i}", nn.ModuleDict({"model": head}))
        self.features = nn.Sequential(*layers)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> Lpips:
        """Load LPIPS with the published weights: `.pth` or `.safetensors` files that together hold

        - the trunk, torchvision's VGG-16 (`vgg16-397923af.pth`), whose `classifier.*` is ignored;
        - the heads of LPIPS 0.1 (`vgg.pth` in `weights/v0.1` of the package `lpips`).

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
        names = list(module.state_dict())
        if missing := [name for name in names if name not in tensors]:
            part = "LPIPS's heads" if missing[0].startswith("lin") else "the VGG-16 trunk"
            raise HartError(f"{source}: lacks {', '.join(missing[:3])}: give the file with {part} too")
        load_state(module, {name: tensors[name] for name in names}, source)
        return module

    def maps(self, image: Tensor) -> list[Tensor]:
        h, found = (image - self.shift) / self.scale, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(h)
            h = layer(h)
        # vector_norm has a gradient of zero, not NaN, if no channel is active
        return [x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + LPIPS_EPS) for x in (*found, h)]

    def compared(self, differences: list[Tensor]) -> Tensor:
        heads = [self.get_submodule(f"lin{i}.model.1") for i in range(len(VGG_STAGES))]
        pairs = zip(heads, differences, strict=True)
        return torch.stack([head(difference).mean(dim=(1, 2, 3)) for head, difference in pairs]).sum(dim=0)


class EfficientNetLitePerceptualLoss(PerceptualDistance):
    """Mean squared difference of channel-normalised features, averaged over four resolutions.

    Raises `HartError` if its two packages are not installed; a file can replace the second.
    """

    def __init__(self, file: Path | None = None) -> None:
        """file: the state of such a module, from a machine that has the packages."""
        super().__init__()
        network = efficientnet_lite(0, weights=file is None)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: FEATURE_BLOCKS[-1] + 1])
        if file is not None:
            fill_module(self, file, torch.float32)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLitePerceptualLoss:
        """Stay in evaluation mode: the batch statistics are frozen."""
        return super().train(False)

    def maps(self, image: Tensor) -> list[Tensor]:
        h = self.stem(image * INPUT_SCALE + INPUT_SHIFT)
        found = []
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in FEATURE_BLOCKS:
                found.append(F.normalize(h, dim=1))
        return found

    def compared(self, differences: list[Tensor]) -> Tensor:
        return torch.stack([difference.sum(dim=1).mean(dim=(1, 2)) for difference in differences]).mean(dim=0)
