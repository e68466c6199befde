"""Figures of single images against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hart.evaluation import psnr, ssim


def test_psnr_is_its_definition() -> None:
    original = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    image = original.clone()
    image[0] += 10
    image[1, 0, 0, 0] += 1
    expected = [20 * math.log10(255 / 10), 20 * math.log10(255 * math.sqrt(48)), math.inf]
    assert psnr(image, original, 255).tolist() == pytest.approx(expected)
    assert psnr(image[0] / 255, original[0] / 255).item() == pytest.approx(expected[0])


def written_out(x: Tensor, y: Tensor) -> Tensor:
    """SSIM as published (Wang et al., 2004): whole windows only, Gaussian of 11 x 11, sigma 1.5, colour by colour."""
    place = torch.arange(11, dtype=torch.float64) - 5
    line = (-(place**2) / (2 * 1.5**2)).exp()
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    x, y = (images.double().flatten(0, 1)[:, None] for images in (x, y))

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window)

    a, b = mean(x), mean(y)
    vary_x, vary_y, together = mean(x * x) - a * a, mean(y * y) - b * b, mean(x * y) - a * b
    c, d = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * a * b + c) * (2 * together + d) / ((a * a + b * b + c) * (vary_x + vary_y + d))
    return values.view(-1, 3, *values.shape[2:]).mean(dim=(1, 2, 3))


@pytest.mark.parametrize("size", [11, 16, 40])
def test_ssim_is_its_definition(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randint(256, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    noise = torch.randn(original.shape, generator=generator)
    image = (0.9 * original + 10 + 20 * noise).clamp(0, 255).byte()
    image[0] = original[0]
    original[2], image[2] = 255, 255 - (torch.arange(size) % 3).byte()  # light and nearly flat
    torch.testing.assert_close(ssim(image, original), written_out(image, original), rtol=1e-6, atol=0)
    assert ssim(image, original)[0] == 1
