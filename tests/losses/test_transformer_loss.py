"""The transformer's loss: gradients everywhere, parts of the last scale, random numbers from its generator alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hart.config import HartConfig
from hart.losses.code_loss import CodeLoss
from hart.losses.transformer_loss import (
    MINIMUM_KEPT,
    code_clusters,
    sample_diffusion_noise,
    sample_last_positions,
    transformer_loss,
    with_given,
)
from helpers import (
    CHANNELS,
    random_context,
    random_image,
    tiny_class_config,
    tiny_model,
    tiny_text_config,
    without_gradient,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def compute(
    config: HartConfig,
    positions: torch.Tensor | None = None,
    seed: int = 0,
    **asked: Any,
) -> tuple[object, torch.Tensor, dict]:
    tokenizer, hart = tiny_model(config)
    with torch.no_grad():
        maps = tokenizer.token_maps(tokenizer.encode(random_image(2)))
    codebook = tokenizer.quantizer.codebook.requires_grad_(False)
    context = random_context(config, 2)
    diffusion_noise = None
    if hart.residual is not None:
        tokens = maps.indices[-1].shape[1] if positions is None else positions.shape[1]
        diffusion_noise = sample_diffusion_noise(
            hart.residual, 2, tokens, maps.last_scale_continuous.shape[2], generator(seed)
        )
    given = hart, codebook, context, maps, positions, diffusion_noise
    total, parts = transformer_loss(*given, diffusion_weight=0.5, **asked)
    return (hart, maps, context), total, parts


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["hybrid", "discrete"])
def test_the_total_is_made_of_its_parts_and_reaches_every_parameter(config: HartConfig) -> None:
    (hart, maps, context), total, parts = compute(config)  # type: ignore[misc]
    output = hart.transformer(context, maps.teacher_forcing_input)
    logits = hart.transformer.logits(output.hidden, output.conditioning)
    entropy = F.cross_entropy(logits.flatten(0, 1), torch.cat(maps.indices, dim=1).flatten())
    torch.testing.assert_close(parts["cross_entropy"], entropy)
    diffusion = parts.get("diffusion_mse", 0) + parts.get("diffusion_bound", 0)
    torch.testing.assert_close(total, entropy + 0.5 * diffusion)
    weights = torch.tensor([1.0, 4.0, 9.0, 16.0])
    scales = torch.stack([parts[f"cross_entropy_{k}"] for k in range(4)])
    torch.testing.assert_close((scales * weights).sum() / weights.sum(), entropy)
    total.backward()
    assert not without_gradient(hart)


def test_only_the_kept_positions_are_supervised() -> None:
    positions = torch.tensor([[0, 5], [7, 15]])
    _, _, whole = compute(tiny_text_config())
    _, total, part = compute(tiny_text_config(), positions)
    assert total.isfinite()
    for k in range(3):
        torch.testing.assert_close(part[f"cross_entropy_{k}"], whole[f"cross_entropy_{k}"])
    assert not torch.isclose(part["cross_entropy_3"], whole["cross_entropy_3"])


def test_given_codes_are_not_predicted_and_alone_have_a_residual() -> None:
    config = tiny_text_config(masked_last_scale=True)
    tokenizer, hart = tiny_model(config)
    codebook, context = tokenizer.quantizer.codebook.requires_grad_(False), random_context(config, 2)
    assert hart.residual is not None
    noise = sample_diffusion_noise(hart.residual, 2, 16, CHANNELS, generator())
    given = torch.arange(16).expand(2, -1) < 5
    with torch.no_grad():
        maps = tokenizer.token_maps(tokenizer.encode(random_image(2)))
        wrong = (maps.indices[-1] + 1) % codebook.num_embeddings
        maps = with_given(maps, given, wrong, codebook, 5 / 16)
    total, parts = transformer_loss(hart, codebook, context, maps, None, noise, diffusion_weight=0.5)
    with torch.no_grad():
        output = hart(context, maps)
        entropy = F.cross_entropy(output.logits[:, -11:].flatten(0, 1), maps.indices[-1][:, -11:].flatten())
        embeddings = codebook(wrong)
        losses = hart.diffusion_loss(
            output.hidden, embeddings, maps.last_scale_continuous, noise.timesteps, noise.noise
        )
    torch.testing.assert_close(parts["cross_entropy_3"], entropy)
    torch.testing.assert_close(parts["diffusion_mse"], losses.mse.view_as(noise.timesteps)[:, :, :5].mean())
    total.backward()
    assert not without_gradient(hart)


def test_images_with_given_codes_weigh_in_parts_of_a_batch_as_in_the_whole() -> None:
    config = tiny_text_config(masked_last_scale=True)
    tokenizer, hart = tiny_model(config)
    codebook, context = tokenizer.quantizer.codebook, random_context(config, 3)
    assert hart.residual is not None
    noise = sample_diffusion_noise(hart.residual, 3, 16, CHANNELS, generator())
    given = torch.arange(16) < torch.tensor([[2], [13], [16]])

    def of(rows: slice) -> dict[str, Tensor]:
        maps = tokenizer.token_maps(tokenizer.encode(random_image(3)[rows]))
        maps = with_given(maps, given[rows], maps.indices[-1], codebook, given.float().mean().item())
        loss = transformer_loss(hart, codebook, context.rows(rows), maps, None, noise.rows(rows), diffusion_weight=0.5)
        return loss[1] | {"total": loss[0]}

    with torch.no_grad():
        whole, parts = of(slice(0, 3)), [of(slice(i, i + 1)) for i in range(3)]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).mean(), value, msg=name)


def test_the_generator_decides_the_noise() -> None:
    torch.manual_seed(1)
    first = compute(tiny_text_config())[2]
    torch.manual_seed(2)
    again, other = compute(tiny_text_config())[2], compute(tiny_text_config(), seed=1)[2]
    assert torch.equal(first["diffusion_mse"], again["diffusion_mse"])
    assert not torch.equal(first["diffusion_mse"], other["diffusion_mse"])


def test_about_a_fifth_of_the_last_scale_is_kept() -> None:
    samples = [sample_last_positions(2, 1024, generator(seed)) for seed in range(400)]
    counts = torch.tensor([positions.shape[1] for positions in samples])
    # half a normal of std 0.25 cut at 0.5 has mean 0.18
    assert counts.float().mean().item() / 1024 == pytest.approx(0.18, abs=0.02)
    assert counts.min() >= MINIMUM_KEPT
    assert counts.max() <= 512
    for positions in samples[:20]:
        assert (positions.diff(dim=1) > 0).all(), "sorted, and none twice"
        assert positions.min() >= 0
        assert positions.max() < 1024
        assert not torch.equal(positions[0], positions[1])


def test_a_small_last_scale_keeps_all_there_is() -> None:
    assert sample_last_positions(1, 16, generator()).tolist() == [list(range(16))]


def test_clusters_and_weights_of_scales_change_the_total_alone() -> None:
    config = tiny_class_config()
    _, plain, parts = compute(config)
    tokenizer, _ = tiny_model(config)
    clusters = code_clusters(tokenizer.quantizer.codebook.weight, 5)
    assert torch.equal(clusters, code_clusters(tokenizer.quantizer.codebook.weight, 5))
    assert clusters.unique().numel() == 5
    asked = {"scale_weights": (3.0, 2.0), "code_loss": CodeLoss(0.5, clusters)}
    _, total, own = compute(config, **asked)
    assert all(torch.equal(own[name], value) for name, value in parts.items())
    assert 0 < own["cluster_cross_entropy"] < own["cross_entropy"]
    _, halves, _ = compute(config, code_loss=CodeLoss(0.5, clusters))
    torch.testing.assert_close(halves, plain + 0.5 * own["cluster_cross_entropy"])
    _, weighted, _ = compute(config, scale_weights=(3.0, 2.0))
    weights = torch.tensor([3.0, 2.0 * 4, 2.0 * 9, 2.0 * 16])  # scales beyond the list weigh as its last
    scales = torch.stack([parts[f"cross_entropy_{k}"] for k in range(4)])
    torch.testing.assert_close(weighted, (scales * weights).sum() / weights.sum())
    assert total.isfinite()


def test_clusters_are_of_codes_that_are_near_each_other() -> None:
    points = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.1, 0.0], [9.0, 9.1]])
    found = code_clusters(points, 2).tolist()
    assert found[0] == found[2] != found[1] == found[3]
