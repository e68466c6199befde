"""The sampling settings of a batch: tensors with one row per image, and the settings that all images share.

Guidance, filters, Gumbel smoothing and greedy scales are set per image; the settings in `SHARED` per batch.

Shapes: B images, or 1 if all have the same settings; K scales, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.config import HartConfig, SamplingConfig
from hart.devices import sent
from hart.errors import HartError
from hart.generation.guidance_and_sampling import Guidance, top_k_at
from hart.grids import ScaleSchedule

SHARED = ("maskgit_steps", "diffusion_steps", "discrete_only", "unguided_scales")
"""Fields of `SamplingConfig` that must be equal for all images of a batch."""


@dataclass(frozen=True)
class BatchSettings:
    """Tensors are (B, 1, 1); tuples of them hold one per scale; everything else is the same for all images.

    guided: whether any image is guided; the others have guidance 0, which gives the same result as none. shared: the
    values of the settings in `SHARED`.
    candidates: for each scale, the most codes that any image keeps by top-k; None for all.
    guidance: 1 + g and g. row_top_k: how many codes each image keeps; None if all keep the same number.
    top_p: None if no image uses it; infinite for the images that do not.
    gumbel_smoothing: None if no image is smoothed.
    """

    guided: bool
    shared: SamplingConfig
    candidates: tuple[int | None, ...]
    guidance: tuple[Guidance, ...]
    row_top_k: tuple[Tensor | None, ...]
    top_p: Tensor | None
    gumbel_smoothing: Tensor | None


def ratio_at(k: int, schedule: ScaleSchedule, config: HartConfig) -> float:
    """Return r = k / (K - 1), by which guidance and sharpness grow; a hybrid's last scale uses the one before it."""
    last = len(schedule) - 1
    return (k - 1 if k == last and config.hybrid else k) / last


def first_unguided(scales: int, unguided_scales: int) -> int:
    """Return the first scale (0-based) of `scales` that is sampled without guidance; never scale 0."""
    return max(1, scales - unguided_scales)


def rows_of_scales(sampling: SamplingConfig, scales: int, *, guided: bool) -> list[int]:
    """Return how many rows of the transformer's batch an image takes at each scale: two with guidance."""
    end = first_unguided(scales, sampling.unguided_scales) if guided else 0
    return [2 if k < end else 1 for k in range(scales)]


def _kept(k: int, row: SamplingConfig, schedule: ScaleSchedule, config: HartConfig) -> int:
    """Return how many codes scale k (0-based) of an image keeps by top-k."""
    if k >= len(schedule) - row.greedy_scales:
        return 1
    codes = config.transformer.codebook_size
    # plain VAR keeps as many codes at every scale
    return min(codes, (top_k_at(k, row.top_k) if config.hybrid else row.top_k) or codes)


def batch_settings(
    config: HartConfig, rows: Sequence[SamplingConfig], schedule: ScaleSchedule, device: torch.device
) -> BatchSettings:
    """Return the settings of a batch from one `SamplingConfig` per image, or one for all.

    Raises `HartError` for settings that the model cannot sample with, or that cannot share a batch.
    """
    first = rows[0]
    for row in rows:
        config.check_sampling(row, schedule)
        if differing := [name for name in SHARED if getattr(row, name) != getattr(first, name)]:
            raise HartError(f"the images of a batch need the same {differing[0]}: generate these separately")
    scales, codes = range(len(schedule)), config.transformer.codebook_size
    kept = [[_kept(k, row, schedule, config) for row in rows] for k in scales]
    top_p = [torch.inf if row.top_p is None else row.top_p for row in rows]
    smoothing = [row.gumbel_smoothing for row in rows]
    strength = [[row.guidance_scale * ratio_at(k, schedule, config) for row in rows] for k in scales]
    more = [[1 + g for g in one] for one in strength]
    # one copy to the device
    table = torch.tensor([*more, *strength, *kept, top_p, smoothing], dtype=torch.float32, device="cpu")
    table = sent(table, device)[..., None, None]
    more_table, strength_table, kept_table = table[: 3 * len(scales)].split(len(scales))
    return BatchSettings(
        guided=any(row.guidance_scale > 0 for row in rows),
        shared=first,
        candidates=tuple(None if max(one) == codes else max(one) for one in kept),
        guidance=tuple(zip(more_table, strength_table, strict=True)),
        row_top_k=kept_table.unbind() if any(len(set(one)) > 1 for one in kept) else (None,) * len(scales),
        top_p=table[-2] if min(top_p) < torch.inf else None,
        gumbel_smoothing=table[-1] > 0 if any(smoothing) else None,
    )
