"""A figure and how certain it is: intervals by resampling images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.errors import HartError
from hart.strict import counted

LEVEL = 0.95
RESAMPLES = 100
FEW_IMAGES = 10_000
"""With fewer images, the FID depends more on their number than on the images."""


@dataclass(frozen=True)
class Figure:
    """A number and how certain it is.

    low, high: a bootstrap interval of `LEVEL`, or None. deviation: standard deviation over subsets, or None.
    """

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None


def bootstrap(
    statistic: Callable[..., float],
    counts: Sequence[int],
    generator: torch.Generator,
    resamples: int = RESAMPLES,
    *,
    biased: bool = False,
) -> Figure:
    """Return the statistic with an interval of `LEVEL` by resampling images with replacement.

    statistic: takes a tensor of row numbers for each set, int64. counts: rows of each set; sets whose images belong
    together (an image and its reconstruction) count as one. resamples: 0 leaves the interval out.
    biased: resampled sets have fewer distinct images, which alone shifts a statistic such as FID: the interval is
    shifted so that the mean of the resamples equals the value. A mean is left as it is, within what is possible.
    """
    value = statistic(*(torch.arange(count) for count in counts))
    # one number from the generator, however many resamples: what is drawn after an interval does not depend on them
    drawn = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
    if not resamples:
        return Figure(value)
    resampled = torch.tensor(
        [statistic(*(torch.randint(count, (count,), generator=drawn) for count in counts)) for _ in range(resamples)],
        dtype=torch.float64,
    )
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = (resampled.quantile(tails) + (value - resampled.mean() if biased else 0)).tolist()
    return Figure(value, low, high)


def bootstrap_mean(values: Tensor, generator: torch.Generator, resamples: int = RESAMPLES) -> Figure:
    """Return the mean of one number per image (N,) with its interval."""
    values = values.double()
    return bootstrap(lambda rows: float(values[rows].mean()), [len(values)], generator, resamples)


def few_images_warning(name: str, count: int) -> tuple[str, ...]:
    """Return a note for a Frechet distance with too few images; empty for enough."""
    if count >= FEW_IMAGES:
        return ()
    return (
        f"{name} of {counted(count, 'image')}, fewer than {FEW_IMAGES:,}: it is too high by an amount that depends on "
        "their number. Compare it only with figures of as many images and the same features, and read KID beside it",
    )


def require_images(
    count: int, least: int, what: str, advice: str = "raise --limit, take --split all, or give more"
) -> None:
    """Raise `HartError` for fewer than `least` images."""
    if count < least:
        raise HartError(f"{what} needs at least {least} images, not {count}: {advice}")


def require_available(wanted: int, count: int, what: str = "") -> None:
    """Raise `HartError` if more images are to be generated than a set has prompts for, or has `what`."""
    if wanted > count:
        advice = "lower --limit" if count else "give another set"
        raise HartError(f"{counted(wanted, 'image')} asked for, the set has {count or 'none'}{what}: {advice}")
