"""The tokenizer's loss: each term by its formula, weighted."""

from __future__ import annotations

import torch
from torch import nn

from hart.losses.config import AdversarialConfig
from hart.losses.tokenizer_loss import (
    AdversarialTerm,
    PatchDiscriminator,
    adaptive_weight,
    last_layer_gradients,
    tokenizer_loss,
)
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from helpers import random_image, tiny_tokenizer_config, without_gradient

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


def test_squared_error_and_discriminator_where_asked_for() -> None:
    tokenizer = HybridTokenizer(tiny_tokenizer_config())
    image = random_image(2)
    result = tokenizer.training_pass(image, discrete=False)
    reconstruction = tokenizer.decode_unclamped(result.latent)
    config = AdversarialConfig(width=16, layers=1, norm="group")
    network = PatchDiscriminator(config, torch.Generator().manual_seed(0))
    last_layer = tokenizer.decoder.conv_out.weight

    def adaptive(loss: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
        return adaptive_weight(last_layer_gradients(loss, adversarial, last_layer))

    term = AdversarialTerm(network, config.weight, adaptive)
    weights = WEIGHTS | {"squared": 3.0}
    before, _ = tokenizer_loss(image, reconstruction, result, Distance(), weights)
    total, parts = tokenizer_loss(image, reconstruction, result, Distance(), weights, term)
    torch.testing.assert_close(parts["squared"], (image - reconstruction).square().mean())
    on_pixels = before - 0.5 * parts["quantizer"]
    expected = adaptive(on_pixels, parts["adversarial"])
    torch.testing.assert_close(parts["adaptive_weight"], expected)
    torch.testing.assert_close(total, before + 0.5 * expected * parts["adversarial"])
    total.backward()
    assert not without_gradient(tokenizer.decoder)
