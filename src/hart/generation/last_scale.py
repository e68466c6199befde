"""The steps of the last scale: MaskGIT steps, and the calls of the transformer and the residual diffusion for them."""

from __future__ import annotations

import math
from itertools import accumulate

from hart.config import HartConfig
from hart.grids import ScaleSchedule


def maskgit_step_sizes(tokens: int, maskgit_steps: int) -> list[int]:
    """How many tokens each MaskGIT step of the last scale samples: a cosine schedule, at least one per step.

    After step r of R, floor(n cos(pi/2 r/R)) positions are left.
    """
    remaining, sizes = tokens, []
    for r in range(1, maskgit_steps + 1):
        left = math.floor(tokens * math.cos(math.pi / 2 * r / maskgit_steps))
        left = 0 if r == maskgit_steps else max(1, min(left, remaining - 1))
        sizes.append(remaining - left)
        remaining = left
    return sizes


def last_call(config: HartConfig, schedule: ScaleSchedule, maskgit_steps: int) -> int:
    """Tokens of the last call of the transformer, which no other call sees.

    A masked last scale is computed anew in every call, and seen in no other.
    """
    tokens = schedule.final.tokens
    if config.transformer.masked_last_scale or not config.hybrid:
        return tokens
    return maskgit_step_sizes(tokens, maskgit_steps)[-1]


def last_scale_calls(config: HartConfig, schedule: ScaleSchedule) -> list[tuple[int, int]]:
    """The transformer's calls for the last scale: tokens of each, and those of this scale that they attend to.

    A masked last scale is computed anew in every MaskGIT step, and once more for the residual diffusion.
    """
    tokens = schedule.final.tokens
    sizes = maskgit_step_sizes(tokens, config.sampling.maskgit_steps)
    if config.transformer.masked_last_scale:
        return [(tokens, tokens)] * (len(sizes) + bool(config.diffusion and not config.sampling.discrete_only))
    return list(zip(sizes, accumulate(sizes), strict=True))


def diffusion_calls(config: HartConfig, schedule: ScaleSchedule) -> list[int]:
    """Tokens of each call of the residual diffusion: one a MaskGIT step, or one after all of a masked last scale."""
    tokens = schedule.final.tokens
    masked = config.transformer.masked_last_scale
    return [tokens] if masked else maskgit_step_sizes(tokens, config.sampling.maskgit_steps)
