"""Batches of images as one picture to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from hart.data.transforms import unit_to_pil
from hart.training.task import Picture


def picture_row(*rows: Tensor) -> Picture:
    """Batches (N, 3, H, W) in [-1, 1], each laid out as one row, under each other."""
    lines = [torch.cat(list(images), dim=2) for images in rows]
    return unit_to_pil((torch.cat(lines, dim=1) + 1) / 2)
