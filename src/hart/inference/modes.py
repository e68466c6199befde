"""The modes of PyTorch in which models are prepared and sampled with, whatever modes the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hart.layers.linear import without_autocast


@contextmanager
def own_types() -> Iterator[None]:
    """Products are in the types of their factors."""
    with without_autocast("cpu"), without_autocast("cuda"), without_autocast("mps"):
        yield


@contextmanager
def own_modes() -> Iterator[None]:
    """The same, and parameters that are made are ordinary tensors."""
    with torch.inference_mode(False), own_types():
        yield
