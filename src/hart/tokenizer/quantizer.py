"""Multi-scale residual quantisation (VAR; Tian et al., 2024, and paper, section 3.1).

A latent is coded coarse to fine. At every scale the residual is pooled to the scale's grid, each position takes its
nearest code, and the map of codes, resized back and smoothed by phi, is subtracted from the residual.

Shapes: B batch, K scales, N tokens of one scale, L tokens of all scales, D latent channels, V codes,
h w the latent's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.grids import Grid, ScaleSchedule


@dataclass(frozen=True)
class QuantizedLatent:
    """The result of a pass over the scales.

    indices: K tensors (B, N_k) int64, the nearest codes.
    partial_sums: K tensors (B, D, h, w): the sum of the scales up to and including k, phi applied at all.
    last_residual: (B, D, h, w), the residual that the last scale codes.
    """

    indices: tuple[Tensor, ...]
    partial_sums: tuple[Tensor, ...]
    last_residual: Tensor

    @property
    def latent(self) -> Tensor:
        """Return (B, D, h, w), the discrete approximation: the sum over all scales."""
        return self.partial_sums[-1]


NEAR = 32
"""A wrong code is one of this many nearest codes."""


@dataclass(frozen=True)
class Corruption:
    """Wrong tokens in training, like sampled ones: codes, which later scales or the decoder learn to correct, or
    residual tokens.

    max_share: (A, 1), for each of A images; an image's share of wrong tokens is uniform between 0 and this.
    generator: on the CPU, samples for all A images.
    rows: which of the A images are passed, so that an image's tokens do not depend on how many are passed together.
    """

    max_share: Tensor
    generator: torch.Generator
    rows: slice

    def codes(self, index: Tensor, distances: Tensor) -> Tensor:
        """Replace some of the codes (B, N) by a near one; distances: (B, N, V), to all codes."""
        near = distances.topk(min(NEAR, distances.shape[-1]), largest=False).indices
        images, tokens = len(self.max_share), index.shape[1]
        chance = self.max_share * torch.rand(images, 1, generator=self.generator)
        wrong = torch.rand(images, tokens, generator=self.generator) < chance
        choice = torch.randint(near.shape[-1], (images, tokens, 1), generator=self.generator)
        wrong, choice = (sampled[self.rows].to(index.device) for sampled in (wrong, choice))
        return torch.where(wrong, near.gather(-1, choice).squeeze(-1), index)

    def residual(self, residual: Tensor) -> Tensor:
        """Mix a map (B, D, h, w) with the image's own values at other positions, keeping its variance."""
        images, tokens = len(self.max_share), residual.shape[2] * residual.shape[3]
        share = self.max_share * torch.rand(images, 1, generator=self.generator)
        order = torch.rand(images, tokens, generator=self.generator).argsort(dim=1)
        share, order = (sampled[self.rows].to(residual.device) for sampled in (share[..., None, None], order))
        other = residual.flatten(2).gather(2, order.unsqueeze(1).expand(-1, residual.shape[1], -1)).view_as(residual)
        return (1 - share.square()).sqrt() * residual + share * other


class Phi(nn.Module):
    """phi(h) = (1 - w) h + w conv(h): smooths a map of codes after resizing."""

    def __init__(self, channels: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return (1 - self.weight) * h + self.weight * self.conv(h)


def shared_phi_table(scales: int, shared: int) -> tuple[int, ...]:
    """Return which of the `shared` phi each of the `scales` uses.

    Computed in float64, as published: its rounding decides near-ties, and exact fractions would give another table.
    """
    # four phi are at 1/12 ... 11/12, any other number at the middles of equal parts
    first = 1 / 3 / shared if shared == 4 else 1 / 2 / shared
    ticks = np.linspace(first, 1 - first, shared)
    return tuple(int(np.argmin(np.abs(ticks - k / (scales - 1)))) for k in range(scales))


class MultiScaleQuantizer(nn.Module):
    """The codebook and the shared phi. Works with any scale schedule, not only the one it was trained on."""

    def __init__(self, codebook_size: int, channels: int, shared_phi: int, phi_weight: float) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codebook_size, channels)
        self.phis = nn.ModuleList(Phi(channels, phi_weight) for _ in range(shared_phi))

    def phi(self, k: int, schedule: ScaleSchedule) -> Phi:
        """Return the phi of scale k (0-based) in `schedule`."""
        phi = self.phis[shared_phi_table(len(schedule), len(self.phis))[k]]
        assert isinstance(phi, Phi)
        return phi

    def distances(self, x: Tensor) -> Tensor:
        """Return squared Euclidean distances (..., V) of x (..., D) to all codes, in float32."""
        codes = self.codebook.weight.float()
        flat = x.reshape(-1, x.shape[-1]).float()
        distances = flat.square().sum(1, keepdim=True) + codes.square().sum(1)
        distances.addmm_(flat, codes.T, alpha=-2)
        return distances.view(*x.shape[:-1], -1)

    def nearest(self, x: Tensor) -> Tensor:
        """Return the indices (...,) of the codes nearest to x (..., D)."""
        return self.distances(x).argmin(dim=-1)

    def contribution(self, embeddings: Tensor, k: int, schedule: ScaleSchedule) -> Tensor:
        """Return scale k's term of the running sum: embeddings (B, N_k, D) to (B, D, h, w), phi applied."""
        grid, final = schedule.grids[k], schedule.final
        x = to_map(embeddings, grid)
        return self.phi(k, schedule)(x if grid == final else F.interpolate(x, size=final, mode="bicubic"))

    def encode(
        self,
        latent: Tensor,
        schedule: ScaleSchedule,
        code_corruption: Corruption | None = None,
        known: Sequence[Tensor] = (),
    ) -> QuantizedLatent:
        """Quantise latent (B, D, h, w) scale by scale.

        known: codes (B, N_k) of the first scales, which are used unchanged.
        code_corruption: makes some of the summed codes wrong, which the codes of later scales then correct.
        Differentiable in codebook and phi (through the partial sums), not in `latent`.
        Raises `ValueError` if the latent's size is not the schedule's last.
        """
        if Grid(*latent.shape[-2:]) != schedule.final:
            raise ValueError(
                f"latent is {tuple(latent.shape[-2:])}, the scale schedule ends at {tuple(schedule.final)}"
            )
        latent = residual = latent.detach()
        total = torch.zeros_like(latent)
        indices, partial_sums = [], []
        for k, grid in enumerate(schedule):
            residual = latent - total.detach()
            given = k < len(known)
            distances = self.distances(self.codebook(known[k]) if given else next_scale_input(residual, grid))
            index = known[k] if given else distances.argmin(dim=-1)
            summed = index if code_corruption is None else code_corruption.codes(index, distances)
            total = total + self.contribution(self.codebook(summed), k, schedule)
            indices.append(index)
            partial_sums.append(total)
        return QuantizedLatent(tuple(indices), tuple(partial_sums), residual)

    def loss(self, quantized: QuantizedLatent, latent: Tensor, commitment_weight: float) -> Tensor:
        """Scalar: mean over scales of beta MSE(sg[sum_k], latent) + MSE(sum_k, sg[latent]).

        The codebook and commitment terms of VQ-VAE (van den Oord et al., 2017), at every partial sum.
        """
        terms = [
            commitment_weight * F.mse_loss(latent, partial.detach()) + F.mse_loss(partial, latent.detach())
            for partial in quantized.partial_sums
        ]
        return torch.stack(terms).mean()


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """Return tokens (B, N, D) in raster order as a map (B, D, *grid)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def next_scale_input(total: Tensor, grid: Grid) -> Tensor:
    """Return the running sum (B, D, h, w) at the grid of a scale: (B, N, D) in raster order."""
    return pool(total, grid).flatten(2).transpose(1, 2)


def with_given_codes(scale_input: Tensor, given: Tensor, codebook: nn.Embedding) -> Tensor:
    """Return the input (B, N, D) of a masked last scale; given codes are already added to the sum.

    given: (B, N) int64, -1 where no code is given.
    """
    embeddings = codebook(given.clamp(min=0)).to(scale_input.dtype)
    return torch.where((given >= 0).unsqueeze(-1), scale_input + embeddings, scale_input)


def pool(x: Tensor, grid: Grid) -> Tensor:
    """Area interpolation of a map (B, D, h, w) to a smaller grid: each position is the mean of the area it covers.

    Position i of n covers rows floor(i h / n) to ceil((i + 1) h / n), and columns likewise: a product with an averaging
    matrix on either side. It also works on devices whose own kernel refuses sizes that do not divide (MPS), and is
    faster on a CPU.
    """
    height, width = x.shape[-2:]
    if (height, width) == grid:
        return x
    rows = _averages(grid.height, height, x)
    columns = rows if grid.height == grid.width and height == width else _averages(grid.width, width, x)
    return rows @ x @ columns.T


def _averages(side: int, wide: int, like: Tensor) -> Tensor:
    """Return the averaging matrix (side, wide) of `pool`, with the type and device of `like`."""
    positions = torch.arange(side, device=like.device).unsqueeze(1)
    places = torch.arange(wide, device=like.device)
    covered = (places >= positions * wide // side) & (places * side < (positions + 1) * wide)
    return (covered.float() / covered.sum(dim=1, keepdim=True)).to(like.dtype)


def code_counts(indices: Sequence[Tensor], codes: int) -> Tensor:
    """Count how often each scale chose each code: K maps of indices (B, N_k) to (K, V) int64."""
    flat = [index.flatten() for index in indices]
    # not bincount: it synchronises a GPU, and cannot run on tensors without values (in a dry run)
    return torch.stack([one.new_zeros(codes).index_add_(0, one, torch.ones_like(one)) for one in flat])


def codebook_usage(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of codes that were chosen (K,), and the perplexity (K,), exp of the codes' entropy: V if all are
    chosen equally often, 1 without tokens. counts: (K, V), which may be summed over batches and processes."""
    counts = counts.double()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -torch.xlogy(shares, shares).sum(dim=1)
    return (counts > 0).double().mean(dim=1), entropy.exp()
