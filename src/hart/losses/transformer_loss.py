"""The transformer's training loss: cross entropy over the token maps plus residual diffusion (paper, section 3.2-3.4).

Shapes: B batch, K scales, N tokens of a scale, M computed tokens of the last scale, V codes, D latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hart.devices import sent
from hart.losses.code_loss import CodeLoss, code_losses, sampled_codes
from hart.model import Hart, ResidualHead
from hart.tokenizer.quantizer import with_given_codes
from hart.transformer.transformer import gather_tokens
from hart.types import Context, Rows, TokenMaps

MINIMUM_KEPT = 32
KMEANS_ROUNDS = 30
# Share of the last scale's tokens that a step computes: half-normal with this standard deviation, truncated here.
KEPT_DEVIATION, LARGEST_KEPT_SHARE = 0.25, 0.5
MEAN_KEPT_SHARE = 0.18
"""The mean of that distribution (0.1807)."""
ALL_GIVEN = 0.25
"""Share of images with a masked last scale for which a step gives all codes."""


def kept_tokens(share: float, tokens: int) -> int:
    """Return how many of N tokens a step computes at this share: at least `MINIMUM_KEPT`, or all there are."""
    return min(tokens, max(MINIMUM_KEPT, round(share * tokens)))


def random_positions(batch: int, tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Return (B, M) sorted raster positions, M of N for each image, on the generator's device."""
    noise = torch.rand(batch, tokens, generator=generator, device=generator.device)
    return noise.argsort(dim=1)[:, :count].sort(dim=1).values


def sample_last_positions(batch: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Return (B, M) sorted raster positions of the last scale that a step computes, on the generator's device.

    The dropped share is normal around 1 with std 0.25, truncated to [0.5, 1] (paper, section 3.4): about 20% are
    kept, at least `MINIMUM_KEPT` (or all there are).
    """
    kept = 1.0
    while kept > LARGEST_KEPT_SHARE:
        kept = abs(KEPT_DEVIATION * torch.randn((), generator=generator, device=generator.device).item())
    return random_positions(batch, tokens, kept_tokens(kept, tokens), generator)


def sample_given(batch: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Return (B, N) bool, tokens of a masked last scale whose codes are in its input, on the generator's device.

    For a quarter of the images all are given: only the residual diffusion, which sees all codes in generation, learns
    from those. For the others a share of cos(pi/2 u) is left to predict, u uniform, as in MaskGIT's steps (2202.04200).
    """
    uniform = torch.rand(batch, 1, generator=generator, device=generator.device)
    left = (tokens * torch.cos(math.pi / 2 * (uniform - ALL_GIVEN) / (1 - ALL_GIVEN))).ceil()
    left = torch.where(uniform < ALL_GIVEN, 0, left)
    order = torch.rand(batch, tokens, generator=generator, device=generator.device).argsort(dim=1).argsort(dim=1)
    return order >= left


def with_given(maps: TokenMaps, given: Tensor, codes: Tensor, codebook: nn.Embedding, share: float) -> TokenMaps:
    """Return maps whose last scale has the input of a step that is given codes (B, N_K), right or wrong.

    given: (B, N_K) bool, where codes are given. share: its mean over the whole batch, of which these may be a part.
    """
    coarse, fine = maps.teacher_forcing_input.split(
        [maps.teacher_forcing_input.shape[1] - given.shape[1], given.shape[1]], dim=1
    )
    codes = codes.where(given, -1)
    fine = with_given_codes(fine, codes, codebook)
    whole_input = torch.cat([coarse, fine], dim=1)
    return replace(maps, teacher_forcing_input=whole_input, given=codes, given_share=share)


@dataclass(frozen=True)
class DiffusionNoise(Rows):
    """Random numbers of the diffusion loss, which uses each token R times per step.

    codes: (B, M) uniform in [0, 1), for sampling codes. timesteps: (B, R, M). noise: (B, R, M, D).
    """

    codes: Tensor
    timesteps: Tensor
    noise: Tensor


def sample_diffusion_noise(
    residual: ResidualHead, batch: int, tokens: int, channels: int, generator: torch.Generator
) -> DiffusionNoise:
    """Sample the numbers for B images with M computed tokens of D channels at the last scale."""
    shape = (batch, residual.config.batch_multiplier, tokens)
    device = generator.device
    return DiffusionNoise(
        codes=torch.rand(batch, tokens, generator=generator, device=device),
        timesteps=torch.randint(residual.config.training_steps, shape, generator=generator, device=device),
        noise=torch.randn(*shape, channels, generator=generator, device=device),
    )


def code_clusters(codes: Tensor, count: int) -> Tensor:
    """Return (V,) int64, the cluster of each code (V, D), by k-means from a fixed initial choice of codes."""
    points = codes.detach().cpu().double()
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count]]

    def nearest() -> Tensor:
        return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)

    for _ in range(KMEANS_ROUNDS):
        chosen = nearest()
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        sizes = sums.new_zeros(len(centres), 1).index_add_(0, chosen, torch.ones_like(points[:, :1]))
        # a centre without codes stays in place
        centres = torch.where(sizes > 0, sums / sizes, centres)
    return nearest()


def token_weights(scale_weights: Sequence[float], segments: Sequence[int]) -> Tensor:
    """Return (L,) token weights of K segments, 1 on average; segments beyond the list take its last entry."""
    last = len(scale_weights) - 1
    weights = torch.cat([torch.full((count,), scale_weights[min(k, last)]) for k, count in enumerate(segments)])
    return weights / weights.mean()


def _weights(counted: Tensor, share: float) -> Tensor:
    """Return weights of tokens that count or not, 1 on average, so that a scale weighs as much however many count.

    share: the mean of `counted` over the whole batch; a microbatch gets its part of the weight, as of the tokens.
    """
    return counted / (share or 1.0)


def transformer_loss(
    hart: Hart,
    codebook: nn.Embedding,
    context: Context,
    maps: TokenMaps,
    last_positions: Tensor | None,
    diffusion_noise: DiffusionNoise | None,
    *,
    diffusion_weight: float,
    scale_weights: Sequence[float] = (),
    code_loss: CodeLoss | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return total loss and terms: `cross_entropy`, cross entropy and accuracy per scale, and the diffusion's terms.

    Given codes of a masked last scale are not predicted; only the residual diffusion learns from those tokens.

    last_positions: (B, M) positions of the last scale that are computed and supervised; None means all.
    diffusion_noise: from `sample_diffusion_noise`; None for a model without residual diffusion.
    scale_weights: see `TransformerLossConfig`. code_loss: with clusters, the parts have `cluster_cross_entropy`.
    """
    output = hart(context, maps, last_positions)
    segments, head, device = output.segments, hart.transformer.head.linear, output.head_input.device
    last_codes, latent = maps.indices[-1], maps.last_scale_continuous
    if last_positions is not None:
        last_codes, latent = last_codes.gather(1, last_positions), gather_tokens(latent, last_positions)
    codes = torch.cat([*maps.indices[:-1], last_codes], dim=1)
    counted = torch.ones(codes.shape, device=device)
    if maps.given is not None:
        counted[:, -segments[-1] :] = _weights(maps.given < 0, 1 - maps.given_share)
    weights = sent(token_weights(scale_weights or (1.0,), segments) / codes.numel(), device)
    code_loss = code_loss or CodeLoss()
    total, entropies, clusters, right = code_losses(output.head_input, head, codes, weights * counted, code_loss)
    parts = {"cross_entropy": (entropies * counted).mean()}
    if clusters is not None:
        parts["cluster_cross_entropy"] = (clusters * counted).mean()
    of_scales = ((each * counted).split(segments, dim=1) for each in (entropies, right))
    for k, (entropy, correct) in enumerate(zip(*of_scales, strict=True)):
        parts[f"cross_entropy_{k}"] = entropy.mean()
        parts[f"accuracy_{k}"] = correct.mean()
    if hart.residual is None:
        return total, parts
    assert diffusion_noise is not None
    noise = diffusion_noise.changed(lambda x: sent(x, device))
    if maps.given is None:
        codes = sampled_codes(output.head_input[:, -segments[-1] :], head, noise.codes)
        diffused = torch.ones_like(codes)
    else:
        codes, diffused = maps.given.clamp(min=0), _weights(maps.given >= 0, maps.given_share)
    diffusion = hart.diffusion_loss(output.hidden, codebook(codes).detach(), latent, noise.timesteps, noise.noise)

    def mean(losses: Tensor) -> Tensor:
        return (losses.view_as(noise.timesteps) * diffused.unsqueeze(1)).mean()

    parts["diffusion_mse"] = mean(diffusion.mse)
    parts["diffusion_bound"] = mean(diffusion.variational_bound)
    return total + diffusion_weight * mean(diffusion.total), parts
