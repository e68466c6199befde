"""The steps of the last scale: MaskGIT steps, and the transformer and residual diffusion calls they make."""

from __future__ import annotations

import math
from itertools import accumulate

from hart.config import HartConfig
from hart.grids import ScaleSchedule


def maskgit_step_sizes(tokens: int, maskgit_steps: int) -> list[int]:
    """Return how many tokens each MaskGIT step of the last scale samples: a cosine schedule, at least one per step.

    After step r of R, floor(n cos(pi/2 r/R)) positions remain.
    """
    remaining, sizes = tokens, []
    for r in range(1, maskgit_steps + 1):
        left = math.floor(tokens * math.cos(math.pi / 2 * r / maskgit_steps))
        left = 0 if r == maskgit_steps else max(1, min(left, remaining - 1))
        sizes.append(remaining - left)
        remaining = left
    return sizes


def last_call(config: HartConfig, schedule: ScaleSchedule, maskgit_steps: int) -> int:
    """Return the number of tokens in the transformer's last call, which no other call attends to.

    A masked last scale is recomputed in every call and attended to in no other.
    """
    tokens = schedule.final.tokens
    if config.transformer.masked_last_scale or not config.hybrid:
        return tokens
    return maskgit_step_sizes(tokens, maskgit_steps)[-1]


def last_scale_calls(config: HartConfig, schedule: ScaleSchedule) -> list[tuple[int, int]]:
    """Return the transformer's calls for the last scale: tokens in each, and tokens of this scale they attend to.

    A masked last scale is recomputed in every MaskGIT step, and once more for the residual diffusion.
    """
    tokens = schedule.final.tokens
    sizes = maskgit_step_sizes(tokens, config.sampling.maskgit_steps)
    if config.transformer.masked_last_scale:
        return [(tokens, tokens)] * (len(sizes) + bool(config.diffusion and not config.sampling.discrete_only))
    return list(zip(sizes, accumulate(sizes), strict=True))


def diffusion_calls(config: HartConfig, schedule: ScaleSchedule) -> list[int]:
    """Return the tokens of each residual diffusion call: one call per MaskGIT step, or one at the end if masked."""
    tokens = schedule.final.tokens
    masked = config.transformer.masked_last_scale
    return [tokens] if masked else maskgit_step_sizes(tokens, config.sampling.maskgit_steps)
