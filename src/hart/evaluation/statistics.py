"""Distances of two sets of features, scores of one, and how sure they are. Float64 throughout.

Shapes: N M pictures, D width of a feature, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.errors import HartError

FEW_PICTURES = 10_000
"""Below as many, the FID depends on their number more than on the pictures."""
CHUNK = 4096
"""Rows that enter a covariance at once."""
MAX_DISTANCES = 2**25
"""Distances between two sets that are held at once: 256 MiB, and as much again while they are computed."""


@dataclass(frozen=True)
class Figure:
    """A number and how sure it is.

    low, high: an interval of `LEVEL` by bootstrap, or None. deviation: standard deviation over subsets, or None.
    """

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None


LEVEL = 0.95
RESAMPLES = 100


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance of a set, the covariance as a factor (R, D): covariance = factor^T factor."""

    mean: Tensor
    factor: Tensor

    @staticmethod
    def of(features: Tensor) -> Gaussian:
        """Of features (N, D), N at least 2, with the unbiased covariance."""
        if len(features) <= features.shape[1]:
            # the centred rows are a factor already, and fewer than D
            _require_pictures(len(features), 2, "a covariance")
            rows = features.double()
            mean = rows.mean(dim=0)
            return Gaussian(mean, (rows - mean) / math.sqrt(len(rows) - 1))
        moments = Moments(features.shape[1])
        for chunk in features.split(CHUNK):
            moments.add(chunk)
        return moments.gaussian()

    @staticmethod
    def from_covariance(mean: Tensor, covariance: Tensor) -> Gaussian:
        """Of a mean (D,) and a covariance (D, D), such as published statistics give."""
        values, vectors = torch.linalg.eigh(covariance.double())
        return Gaussian(mean.double(), values.clamp(min=0).sqrt()[:, None] * vectors.T)


class Moments:
    """Count, mean and covariance of features that come in parts; parts may be merged (Chan et al., 1983)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """More features (N, D)."""
        rows = features.double()
        if len(rows):
            mean = rows.mean(dim=0)
            centred = rows - mean
            self._take(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> None:
        """All that another one has seen, for instance in another process."""
        if other.count:
            self._take(other.count, other.mean, other._scatter)

    def gaussian(self) -> Gaussian:
        """Of all features so far, at least 2."""
        _require_pictures(self.count, 2, "a covariance")
        return Gaussian.from_covariance(self.mean, self.covariance)

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased."""
        return self._scatter / (self.count - 1)

    def _take(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        apart = mean - self.mean
        self._scatter += scatter + torch.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)): FID, rFID and sFID, by the features (Heusel et al., 2017).

    With A = F^T F and B = G^T G the last trace is the sum of the singular values of F G^T, which needs no root of a
    matrix that is not symmetric, and is small for sets smaller than the features are wide.
    """
    common = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    distance = (a.mean - b.mean).square().sum() + a.factor.square().sum() + b.factor.square().sum() - 2 * common
    return max(float(distance), 0.0)


def kernel_distance(
    x: Tensor, y: Tensor, generator: torch.Generator, *, subsets: int = 100, subset_size: int = 1000
) -> Figure:
    """KID (Binkowski et al., 2018) of features x (N, D) and y (M, D): mean and standard deviation over random subsets.

    The unbiased squared MMD with the kernel (x.y / D + 1)^3; it may be negative. Subsets are of `subset_size`, or of
    half the smaller set where that has fewer than twice as many, so that they differ.
    """
    size = min(subset_size, len(x) // 2, len(y) // 2)
    _require_pictures(size, 2, "KID, of half of the pictures,")
    x, y = x.double(), y.double()
    values = torch.tensor(
        [
            unbiased_squared_mmd(
                x[torch.randperm(len(x), generator=generator)[:size]],
                y[torch.randperm(len(y), generator=generator)[:size]],
            )
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return Figure(float(values.mean()), deviation=float(values.std(correction=0)))


def unbiased_squared_mmd(x: Tensor, y: Tensor) -> float:
    """Of x (N, D) and y (M, D) with KID's polynomial kernel; no picture is compared with itself."""
    within = 0.0
    for rows in (x, y):
        kernel = _polynomial(rows, rows)
        within += float(kernel.sum() - kernel.diagonal().sum()) / (len(rows) * (len(rows) - 1))
    return within - 2 * float(_polynomial(x, y).mean())


def inception_score(logits: Tensor) -> float:
    """exp(mean KL(p(class | picture), p(class))) of logits (N, C) (Salimans et al., 2016), over all pictures at once.

    Named after its network: of other logits it is another score. The published protocols average over parts (ADM's:
    of 5,000 pictures): `inception_score_of_parts`.
    """
    logs = logits.double().log_softmax(dim=1)
    mean = torch.logsumexp(logs, dim=0) - math.log(len(logs))
    return float((logs.exp() * (logs - mean)).sum(dim=1).mean().exp())


def inception_score_of_parts(logits: Tensor, part: int = 5000) -> Figure:
    """Mean and standard deviation of the score over parts in order, the last perhaps smaller (ADM's protocol)."""
    scores = torch.tensor([inception_score(rows) for rows in logits.split(part)], dtype=torch.float64)
    return Figure(float(scores.mean()), deviation=float(scores.std(correction=0)) if len(scores) > 1 else None)


@dataclass(frozen=True)
class Manifolds:
    """Who lies in whose manifold. precise: (M,) bool, of the generated; recalled: (N,) bool, of the real."""

    precise: Tensor
    recalled: Tensor


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> Manifolds:
    """Improved precision and recall (Kynkaanniemi et al., 2019) of features (N, D) and (M, D), with ADM's 3 neighbours.

    A set's manifold: balls around its pictures that reach to the k-th nearest other one. Precision is the share of
    generated pictures in the manifold of the real ones, recall the reverse.
    """
    _require_pictures(min(len(real), len(generated)), neighbours + 1, "precision and recall")
    real, generated = real.double(), generated.double()
    return Manifolds(
        precise=_within(generated, real, _radii(real, neighbours)),
        recalled=_within(real, generated, _radii(generated, neighbours)),
    )


def bootstrap(
    statistic: Callable[..., float],
    counts: Sequence[int],
    generator: torch.Generator,
    resamples: int = RESAMPLES,
) -> Figure:
    """The statistic with an interval of `LEVEL` by resampling pictures with replacement.

    statistic: takes one tensor of row numbers a set, int64, and reads those rows. counts: rows of each set; sets whose
    pictures belong together (a picture and its reconstruction) count as one. resamples: 0 leaves the interval out.
    Resampled sets have fewer different pictures, which alone moves a biased statistic such as FID: the interval is that
    of the resamples, moved so that their mean lies on the value.
    """
    value = statistic(*(torch.arange(count) for count in counts))
    if not resamples:
        return Figure(value)
    draws = [
        statistic(*(torch.randint(count, (count,), generator=generator) for count in counts)) for _ in range(resamples)
    ]
    drawn = torch.tensor(draws, dtype=torch.float64)
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = ((drawn - drawn.mean()).quantile(tails) + value).tolist()
    return Figure(value, low, high)


def bootstrap_mean(values: Tensor, generator: torch.Generator, resamples: int = RESAMPLES) -> Figure:
    """The mean of one number a picture (N,) with its interval."""
    values = values.double()
    return bootstrap(lambda rows: float(values[rows].mean()), [len(values)], generator, resamples)


def few_pictures_warning(name: str, count: int) -> str | None:
    """What to say beside a Frechet distance of too few pictures."""
    if count >= FEW_PICTURES:
        return None
    return (
        f"{name} of {count:,} pictures, fewer than {FEW_PICTURES:,}: it is too high by an amount that depends on their "
        "number. Compare it only with figures of as many pictures and the same features, and read KID beside it"
    )


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _radii(rows: Tensor, neighbours: int) -> Tensor:
    """(N,): distance of each row to its k-th nearest other one."""
    # each row is its own nearest: one more is asked for
    parts = [_kth_smallest(torch.cdist(part, rows), neighbours + 1) for part in _compared(rows, rows)]
    return torch.cat(parts)


def _within(rows: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """(N,) bool: whether each row lies in any of the balls."""
    return torch.cat([(torch.cdist(part, centres) <= radii).any(dim=1) for part in _compared(rows, centres)])


def _compared(rows: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    """The rows in parts that can be compared with all others at once, whatever their number."""
    return rows.split(max(1, MAX_DISTANCES // len(others)))


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """(B,) of (B, N), k counted from 1. Looks for a few smallest, which is far less work than an order of all."""
    return values.topk(k, dim=1, largest=False).values[:, -1]


def _require_pictures(count: int, least: int, what: str) -> None:
    if count < least:
        raise HartError(
            f"{what} needs at least {least} pictures, there are {count}: raise --limit, or give a larger set"
        )
