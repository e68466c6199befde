"""The tokenizer's loss: each part by its formula, weighted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hart.errors import HartError
from hart.losses.perceptual import INPUT_SCALE, INPUT_SHIFT, EfficientNetLitePerceptualLoss
from hart.losses.tokenizer_loss import tokenizer_loss
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from helpers import random_image, tiny_tokenizer_config

WEIGHTS = {"reconstruction": 1.0, "chroma": 0.0, "perceptual": 2.0, "quantizer": 0.5}


class Distance(nn.Module):
    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (image - target).square().mean()


def test_the_parts_add_up() -> None:
    image, reconstruction = random_image(2, seed=1), random_image(2, seed=2)
    result = HybridTokenizer(tiny_tokenizer_config()).training_pass(image, discrete=True)
    total, parts = tokenizer_loss(image, reconstruction, result, Distance(), WEIGHTS)
    torch.testing.assert_close(parts["reconstruction"], (image - reconstruction).abs().mean())
    torch.testing.assert_close(parts["perceptual"], (image - reconstruction).square().mean())
    torch.testing.assert_close(parts["quantizer"], result.quantizer_loss)
    torch.testing.assert_close(total, parts["reconstruction"] + 2 * parts["perceptual"] + 0.5 * parts["quantizer"])


def test_brightness_is_no_error_of_colour() -> None:
    image = random_image(2)
    result = HybridTokenizer(tiny_tokenizer_config()).training_pass(image, discrete=True)
    brighter, redder = image + 0.1, image.clone()
    redder[:, 0] += 0.1
    assert tokenizer_loss(image, brighter, result, None, WEIGHTS)[1]["chroma"] < 1e-10
    assert tokenizer_loss(image, redder, result, None, WEIGHTS)[1]["chroma"] > 1e-3


def test_perceptual_distance_of_the_shipped_features() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    loss = EfficientNetLitePerceptualLoss()
    image = random_image(1, size=32).requires_grad_()
    same, other = loss(image, image.detach()), loss(image, random_image(1, size=32, seed=1))
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert other > 0.01
    other.backward()
    assert image.grad is not None and image.grad.any()
    assert not any(p.requires_grad for p in loss.parameters())
    assert not loss.train().training


def test_perceptual_inputs_are_normalised_as_the_network_was_trained() -> None:
    for pixel in (0, 90, 255):
        signed = pixel / 127.5 - 1
        assert signed * INPUT_SCALE + INPUT_SHIFT == pytest.approx((pixel - 127) / 128)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(HartError, match=r"pip install 'hart\[train\]'"):
        EfficientNetLitePerceptualLoss()
