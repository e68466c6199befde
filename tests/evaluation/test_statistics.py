"""Distances and scores against scipy, torchmetrics and plain loops; intervals against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from hart.errors import HartError
from hart.evaluation import statistics
from hart.evaluation.statistics import (
    Gaussian,
    Moments,
    bootstrap,
    bootstrap_mean,
    few_pictures_warning,
    frechet_distance,
    inception_score,
    inception_score_of_parts,
    kernel_distance,
    precision_recall,
    unbiased_squared_mmd,
)
from helpers import random_tensor

# torchmetrics says of every metric that it keeps its features
keeps_features = pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features:UserWarning")


def correlated(count: int, width: int, seed: int) -> Tensor:
    """Features as networks give them: correlated, not centred, of different spreads."""
    return random_tensor(count, width, seed=seed) @ random_tensor(width, width, seed=seed + 50) + seed


def published_frechet_distance(x: Tensor, y: Tensor) -> float:
    """As the published evaluators compute it: numpy's covariances and scipy's root of their product."""
    a, b = x.double().numpy(), y.double().numpy()
    covariances = [np.cov(rows, rowvar=False) for rows in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    apart = a.mean(axis=0) - b.mean(axis=0)
    return float(apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root.real))


@pytest.mark.parametrize(("n", "m"), [(300, 200), (40, 300), (300, 20)])
def test_frechet_distance_is_the_published_one(n: int, m: int) -> None:
    """Also where a covariance has no full rank: fewer pictures than the features are wide."""
    x, y = correlated(n, 24, 1), 1.3 * correlated(m, 24, 2)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(published_frechet_distance(x, y), abs=1e-3)


def test_frechet_distance_of_features_as_wide_as_inceptions() -> None:
    """Two sets of 60 with 2,048 numbers each: against the eigenvalues of the product on the sets' common span."""
    x, y = random_tensor(60, 2048, seed=1), 0.8 * random_tensor(60, 2048, seed=2) + 0.1
    span = torch.linalg.qr(torch.cat([x, y]).double().T).Q
    expected = published_frechet_distance(x.double() @ span, y.double() @ span)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(expected, abs=1e-3)


def test_a_set_is_at_no_distance_from_itself() -> None:
    x = correlated(200, 16, 3)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(x)) == pytest.approx(0, abs=1e-6)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    x = correlated(101, 8, 4) + 1000
    parts, other = Moments(8), Moments(8)
    for part in x[:60].split(7):
        parts.add(part)
    other.add(x[60:])
    parts.merge(other)
    assert parts.count == 101
    np.testing.assert_allclose(parts.mean, x.double().mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-8)
    assert frechet_distance(parts.gaussian(), Gaussian.of(x)) == pytest.approx(0, abs=1e-6)


@keeps_features
def test_kid_is_that_of_torchmetrics() -> None:
    x, y = random_tensor(30, 12, seed=1), random_tensor(25, 12, seed=2) + 0.3
    theirs = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=25)
    theirs.update(x[:25], real=True)
    theirs.update(y, real=False)
    # subsets in another order of rows are the same set
    assert unbiased_squared_mmd(x[:25].double(), y.double()) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
    figure = kernel_distance(x, y, torch.Generator().manual_seed(0))
    assert figure.deviation is not None and figure.deviation > 0
    assert figure.value == pytest.approx(unbiased_squared_mmd(x.double(), y.double()), abs=2 * figure.deviation)


def test_kid_of_two_halves_of_one_set_is_about_zero() -> None:
    """What FID at small counts cannot say."""
    x = random_tensor(400, 16, seed=5)
    figure = kernel_distance(x[:200], x[200:], torch.Generator().manual_seed(0))
    assert figure.deviation is not None
    assert abs(figure.value) < figure.deviation
    assert frechet_distance(Gaussian.of(x[:200]), Gaussian.of(x[200:])) > 0.1


@keeps_features
@pytest.mark.filterwarnings("ignore:std.* degrees of freedom:UserWarning")
def test_inception_score_is_that_of_torchmetrics() -> None:
    logits = 3 * random_tensor(40, 10, seed=6)
    theirs = InceptionScore(feature=nn.Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)
    # certain and evenly spread over C classes scores C; the same guess for all scores 1
    assert inception_score(100 * torch.eye(7)) == pytest.approx(7, rel=1e-6)
    assert inception_score(torch.ones(5, 3)) == pytest.approx(1)
    parts = inception_score_of_parts(logits, part=20)
    assert parts.value == pytest.approx((inception_score(logits[:20]) + inception_score(logits[20:])) / 2)


def test_precision_and_recall_are_what_their_paper_says(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = random_tensor(30, 4, seed=7), 0.5 * random_tensor(20, 4, seed=8) + 0.4

    def covered(point: Tensor, centres: Tensor) -> bool:
        for i, centre in enumerate(centres):
            others = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if j != i)
            if float((point - centre).norm()) <= others[2]:
                return True
        return False

    found = precision_recall(real, generated, neighbours=3)
    assert found.precise.tolist() == [covered(point, real) for point in generated]
    assert found.recalled.tolist() == [covered(point, generated) for point in real]
    # in parts, as large sets are compared
    monkeypatch.setattr(statistics, "MAX_DISTANCES", 70)
    parts = precision_recall(real, generated, neighbours=3)
    assert parts.precise.equal(found.precise) and parts.recalled.equal(found.recalled)
    # generated pictures that are all alike are precise but recall little
    alike = precision_recall(real, real[:1] + 0.01 * generated)
    assert alike.precise.all()
    assert alike.recalled.double().mean() < 0.2


def test_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = random_tensor(400, seed=9) + 5
    figure = bootstrap_mean(values, torch.Generator().manual_seed(0), resamples=1000)
    assert figure.low is not None and figure.high is not None
    error = 1.96 * float(values.std()) / math.sqrt(400)
    assert figure.value == pytest.approx(float(values.mean()))
    assert figure.low == pytest.approx(figure.value - error, abs=0.2 * error)
    assert figure.high == pytest.approx(figure.value + error, abs=0.2 * error)


def test_interval_of_a_biased_statistic_holds_its_value() -> None:
    """Resampling alone raises a Frechet distance far above its value at small counts."""
    x, y = random_tensor(40, 16, seed=1), random_tensor(40, 16, seed=2)
    figure = bootstrap(
        lambda i, j: frechet_distance(Gaussian.of(x[i]), Gaussian.of(y[j])), [40, 40], torch.Generator().manual_seed(0)
    )
    assert figure.low is not None and figure.high is not None
    assert figure.low < figure.value < figure.high


def test_intervals_follow_from_the_generator_and_can_be_left_out() -> None:
    values = random_tensor(50, seed=3)
    first, again = (bootstrap_mean(values, torch.Generator().manual_seed(4)) for _ in range(2))
    assert first == again
    none = bootstrap_mean(values, torch.Generator(), resamples=0)
    assert (none.low, none.high) == (None, None)


def test_too_few_pictures_are_said() -> None:
    one = torch.zeros(1, 4)
    for compute in (
        lambda: Gaussian.of(one),
        lambda: kernel_distance(one, one, torch.Generator()),
        lambda: precision_recall(one, one),
    ):
        with pytest.raises(HartError, match=r"needs at least \d pictures, there are"):
            compute()
    assert "9,999 pictures, fewer than 10,000" in str(few_pictures_warning("FID", 9_999))
    assert few_pictures_warning("FID", 10_000) is None
