"""The transformer's training loss: cross entropy over the token maps plus residual diffusion (paper, section 3.2-3.4).

Shapes: B batch, K scales, N tokens of a scale, M computed tokens of the last scale, V codes, D latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.generation.logits import filtered, sample
from hart.losses.config import TransformerLossConfig
from hart.model import Hart, ResidualHead, ResidualInputs
from hart.types import Context, TokenMaps

PLAIN = TransformerLossConfig()
# In training, the codes that condition the diffusion are sampled from the model's own distribution, cut to these.
SAMPLED_TOP_K, SAMPLED_TOP_P = 600, 0.96
MINIMUM_KEPT = 32
KMEANS_ROUNDS = 30
# Share of the last scale's tokens that a step computes: half a normal of this standard deviation, cut here.
KEPT_DEVIATION, LARGEST_KEPT_SHARE = 0.25, 0.5
MEAN_KEPT_SHARE = 0.18
"""The mean of that distribution (0.1807)."""


def kept_tokens(share: float, tokens: int) -> int:
    """How many of N tokens a step computes that keeps this share: at least `MINIMUM_KEPT`, or all there are."""
    return min(tokens, max(MINIMUM_KEPT, round(share * tokens)))


def random_positions(batch: int, tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """(B, M) sorted raster positions, M of N for each image, on the generator's device."""
    noise = torch.rand(batch, tokens, generator=generator, device=generator.device)
    return noise.argsort(dim=1)[:, :count].sort(dim=1).values


def sample_last_positions(batch: int, tokens: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(B, M) sorted raster positions of the last scale that a step computes.

    The dropped share is normal around 1 with std 0.25, cut to [0.5, 1] (paper, section 3.4): about 20% are
    kept, at least `MINIMUM_KEPT` (or all there are).
    """
    kept = 1.0
    while kept > LARGEST_KEPT_SHARE:
        kept = abs(KEPT_DEVIATION * torch.randn((), generator=generator, device=generator.device).item())
    return random_positions(batch, tokens, kept_tokens(kept, tokens), generator).to(device)


@dataclass(frozen=True)
class DiffusionNoise:
    """Random numbers of the diffusion's loss, which uses each token R times in a step.

    codes: (B, M) uniform in [0, 1), for sampling codes. timesteps: (B, R, M). noise: (B, R, M, D).
    """

    codes: Tensor
    timesteps: Tensor
    noise: Tensor

    def rows(self, rows: slice) -> DiffusionNoise:
        """The numbers of some of the images."""
        return DiffusionNoise(self.codes[rows], self.timesteps[rows], self.noise[rows])

    def inputs(self, codebook: nn.Embedding) -> ResidualInputs:
        """These numbers on the codebook's device; codes are sampled from the model's own distribution."""
        device = codebook.weight.device

        def embed_codes(logits: Tensor) -> Tensor:
            kept = filtered(logits, SAMPLED_TOP_K, SAMPLED_TOP_P)
            embeddings: Tensor = codebook(sample(kept, self.codes.to(device, non_blocking=True)))
            return embeddings

        timesteps, noise = (x.to(device, non_blocking=True) for x in (self.timesteps, self.noise))
        return ResidualInputs(embed_codes, timesteps, noise)


def sample_diffusion_noise(
    residual: ResidualHead, batch: int, tokens: int, channels: int, generator: torch.Generator
) -> DiffusionNoise:
    """The numbers for B images with M computed tokens of D channels at the last scale."""
    shape = (batch, residual.config.batch_multiplier, tokens)
    device = generator.device
    return DiffusionNoise(
        codes=torch.rand(batch, tokens, generator=generator, device=device),
        timesteps=torch.randint(residual.config.training_steps, shape, generator=generator, device=device),
        noise=torch.randn(*shape, channels, generator=generator, device=device),
    )


def code_clusters(codes: Tensor, count: int) -> Tensor:
    """(V,) int64, the cluster of each code (V, D), by k-means that begins with some of the codes, always the same."""
    points = codes.detach().double().cpu()
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count]]

    def nearest() -> Tensor:
        return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)

    for _ in range(KMEANS_ROUNDS):
        chosen = nearest()
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        sizes = chosen.bincount(minlength=len(centres)).unsqueeze(1)
        # a centre without codes stays where it is
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return nearest()


def cluster_cross_entropy(logits: Tensor, targets: Tensor, clusters: Tensor) -> Tensor:
    """(B, L): minus the log of the probability of all codes in a target's cluster. logits: (B, L, V) float32."""
    outside = clusters != clusters[targets].unsqueeze(-1)
    return logits.logsumexp(dim=-1) - logits.masked_fill(outside, -torch.inf).logsumexp(dim=-1)


def token_weights(scale_weights: Sequence[float], segments: Sequence[int]) -> Tensor:
    """(L,) weights of the tokens of K segments, 1 in the mean; segments beyond the list weigh as its last entry."""
    last = len(scale_weights) - 1
    weights = torch.cat([torch.full((count,), scale_weights[min(k, last)]) for k, count in enumerate(segments)])
    return weights / weights.mean()


def hart_loss(
    hart: Hart,
    codebook: nn.Embedding,
    context: Context,
    maps: TokenMaps,
    last_positions: Tensor | None,
    diffusion_noise: DiffusionNoise | None,
    *,
    diffusion_weight: float,
    config: TransformerLossConfig = PLAIN,
    clusters: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its terms: `cross_entropy`, cross entropy and accuracy of every scale, and the diffusion's terms.

    last_positions: (B, M) positions of the last scale that are computed and supervised; None takes all.
    diffusion_noise: from `sample_diffusion_noise`; None for a model without residual diffusion.
    clusters: (V,) the cluster of each code, see `code_clusters`; with them the parts have `cluster_cross_entropy`.
    """
    residual = None
    if hart.residual is not None:
        assert diffusion_noise is not None
        residual = diffusion_noise.inputs(codebook)
    output = hart(context, maps, last_positions, residual)
    logits = output.logits
    last = maps.indices[-1] if last_positions is None else maps.indices[-1].gather(1, last_positions)
    targets = torch.cat([*maps.indices[:-1], last], dim=1)
    per_token = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    parts = {"cross_entropy": per_token.mean()}
    weighted = per_token
    if clusters is not None:
        per_cluster = cluster_cross_entropy(logits, targets, clusters)
        parts["cluster_cross_entropy"] = per_cluster.mean()
        weighted = weighted + config.cluster_weight * per_cluster
    if config.scale_weights:
        weighted = weighted * token_weights(config.scale_weights, output.segments).to(weighted.device)
    total = weighted.mean()
    with torch.no_grad():
        correct = (logits.argmax(dim=-1) == targets).float()
        scales = zip(per_token.split(output.segments, dim=1), correct.split(output.segments, dim=1), strict=True)
        for k, (entropy, accuracy) in enumerate(scales):
            parts[f"cross_entropy_{k}"] = entropy.mean()
            parts[f"accuracy_{k}"] = accuracy.mean()
    if output.diffusion is None:
        return total, parts
    parts["diffusion_mse"] = output.diffusion.mse.mean()
    parts["diffusion_bound"] = output.diffusion.variational_bound.mean()
    return total + diffusion_weight * output.diffusion.total.mean(), parts
