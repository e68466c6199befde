"""The modes of PyTorch in which models are prepared, whatever modes the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hart.layers.linear import without_autocast


@contextmanager
def own_modes() -> Iterator[None]:
    """Parameters that are made are ordinary tensors, and products are in the types of their factors."""
    with torch.inference_mode(False), without_autocast("cpu"), without_autocast("cuda"), without_autocast("mps"):
        yield
