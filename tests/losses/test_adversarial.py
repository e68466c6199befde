"""PatchGAN, hinge losses and the adaptive weight, against their formulas."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import nn

from hart.config import ConfigError
from hart.losses.config import AdversarialConfig, PerceptualConfig
from hart.losses.tokenizer_loss import (
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    last_layer_gradients,
)
from helpers import random_image, random_tensor, same_weights, without_gradient


def discriminator(layers: int = 1, norm: Literal["batch", "group"] = "group", seed: int = 0) -> PatchDiscriminator:
    config = AdversarialConfig(width=16, layers=layers, norm=norm)
    return PatchDiscriminator(config, torch.Generator().manual_seed(seed))


def test_the_published_discriminator_sees_patches_of_70_pixels() -> None:
    network = PatchDiscriminator(AdversarialConfig(), torch.Generator().manual_seed(0))
    widths = [3, 64, 128, 256, 512, 1]
    kernels = sum(16 * a * b for a, b in pairwise(widths))
    # biases at the first and the last layer, gain and shift of the three norms
    assert sum(p.numel() for p in network.parameters()) == kernels + 64 + 1 + 2 * (128 + 256 + 512)
    stages = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    seen = 1
    for layer in reversed(stages):
        seen = (seen - 1) * layer.stride[0] + layer.kernel_size[0]
    assert seen == 70
    assert network(random_image(1, size=32)).shape == (1, 1, 2, 2)


def test_the_generator_decides_the_first_weights() -> None:
    first, again, other = (discriminator(seed=seed).state_dict() for seed in (3, 3, 4))
    assert same_weights(first, again)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_group_norm_scores_each_image_by_itself() -> None:
    pair = random_image(2, size=8)
    alone, together = discriminator()(pair[:1]), discriminator()(pair)
    torch.testing.assert_close(alone, together[:1])
    batch = discriminator(norm="batch")
    assert not torch.allclose(batch(pair[:1]), batch(pair)[:1])
    assert not list(batch.buffers()), "nothing beside weights that a resumed run would have to restore"


def test_the_smallest_image_has_one_patch() -> None:
    network = discriminator(layers=2)
    assert network(random_image(1, size=network.config.smallest_image_size)).numel() == 1


def test_hinge_losses() -> None:
    scores_as_they_are = nn.Identity()
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss(scores_as_they_are, real, fake)[0] == 0.5 * (0.25 + 1.0)
    assert adversarial_loss(scores_as_they_are, fake) == 1.0


def test_the_discriminator_learns_without_touching_the_tokenizer() -> None:
    network = discriminator()
    # away from the start, where the two halves of the hinge cancel at the last bias
    nn.init.constant_(network.layers[-1].bias, 2.0)
    image, reconstruction = random_image(2), random_image(2, seed=1).requires_grad_()
    loss, parts = discriminator_loss(network, image, reconstruction)
    torch.testing.assert_close(parts["score_real"], network(image).mean())
    loss.backward()
    assert reconstruction.grad is None
    assert not without_gradient(network)


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    last = nn.Parameter(random_tensor(3, 4))
    x = random_tensor(4, seed=1)
    loss, adversarial = (last @ x).square().sum(), -(last @ x).sum()
    wanted = torch.outer(2 * (last @ x), x).norm() / (torch.outer(-torch.ones(3), x).norm() + 1e-4)
    weight = adaptive_weight(last_layer_gradients(loss, adversarial, last))
    torch.testing.assert_close(weight, wanted.detach())
    assert not weight.requires_grad
    assert adaptive_weight(last_layer_gradients(loss, 0 * adversarial, last)) == 1e4
    assert last.grad is None


def test_the_term_trains_the_decoder_and_leaves_the_discriminator_alone() -> None:
    last, network = nn.Conv2d(3, 3, 1), discriminator()
    reconstruction = last(random_image(2))
    adversarial = adversarial_loss(network, reconstruction)
    torch.testing.assert_close(adversarial, -network(reconstruction).mean())
    adversarial.backward()
    assert not without_gradient(last)
    assert all(p.grad is None for p in network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_configuration() -> None:
    config = AdversarialConfig.from_dict({"start_step": 10})
    for values in ({"weight": 0}, {"start_step": -1}, {"layers": 0}, {"norm": "group", "width": 24}, {"norm": "none"}):
        with pytest.raises(ConfigError):
            AdversarialConfig.from_dict(values)
    assert config.smallest_image_size == 24
    with pytest.raises(ConfigError, match=r"kind: missing key"):
        PerceptualConfig.from_dict({})
