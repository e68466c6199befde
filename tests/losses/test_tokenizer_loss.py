"""The terms of the tokenizer's loss that compare images: each by its formula, weighted."""

from __future__ import annotations

import torch
from torch import nn

from hart.losses.tokenizer_loss import pixel_loss
from helpers import random_image

WEIGHTS = {"reconstruction": 1.0, "chroma": 0.0, "perceptual": 2.0}


class Distance(nn.Module):
    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (image - target).square().mean()


def test_the_parts_add_up() -> None:
    image, reconstruction = random_image(2, seed=1), random_image(2, seed=2)
    total, parts = pixel_loss(image, reconstruction, Distance(), WEIGHTS)
    torch.testing.assert_close(parts["reconstruction"], (image - reconstruction).abs().mean())
    torch.testing.assert_close(parts["perceptual"], (image - reconstruction).square().mean())
    torch.testing.assert_close(total, parts["reconstruction"] + 2 * parts["perceptual"])
    assert "squared" not in parts
    squared, parts = pixel_loss(image, reconstruction, Distance(), WEIGHTS | {"squared": 3.0})
    torch.testing.assert_close(parts["squared"], (image - reconstruction).square().mean())
    torch.testing.assert_close(squared, total + 3 * parts["squared"])


def test_brightness_is_no_error_of_colour() -> None:
    image = random_image(2)
    brighter, redder = image + 0.1, image.clone()
    redder[:, 0] += 0.1
    assert pixel_loss(image, brighter, None, WEIGHTS)[1]["chroma"] < 1e-10
    assert pixel_loss(image, redder, None, WEIGHTS)[1]["chroma"] > 1e-3
