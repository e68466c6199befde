"""Distances and scores against scipy and plain loops, single images against definitions; what intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import linalg
from torch import Tensor

from hart.errors import HartError
from hart.evaluation import psnr, ssim
from hart.evaluation.metrics import distances
from hart.evaluation.metrics.distances import (
    Gaussian,
    all_figures,
    frechet_distance,
    frechet_figure,
    inception_score,
    kernel_distance,
    precision_recall,
)
from hart.evaluation.metrics.features import Features
from hart.evaluation.metrics.figures import bootstrap_mean, few_images_warning, require_available
from helpers import random_tensor


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
    """Also where a covariance has no full rank: fewer images than the features are wide."""
    x, y = correlated(n, 24, 1), 1.3 * correlated(m, 24, 2)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(published_frechet_distance(x, y), abs=1e-3)


def test_a_set_is_at_no_distance_from_itself() -> None:
    x = correlated(200, 16, 3)
    assert frechet_distance(Gaussian.of(x), Gaussian.of(x)) == pytest.approx(0, abs=1e-6)


def test_a_covariance_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(101, 8, 4) + 1000
    monkeypatch.setattr(distances, "CHUNK", 7)
    found = Gaussian.of(x)
    np.testing.assert_allclose(found.mean, x.double().mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(found.factor.T @ found.factor, np.cov(x.double().numpy(), rowvar=False), rtol=1e-8)


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """KID's estimate as its paper writes it: no image is compared with itself."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(rows: Tensor) -> float:
        values = kernel(rows, rows)
        return float(values.sum() - values.diagonal().sum()) / (len(rows) * (len(rows) - 1))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def test_kid_is_its_definition_over_subsets_of_the_generator() -> None:
    x, y = random_tensor(30, 12, seed=1), random_tensor(25, 12, seed=2) + 0.3
    figure = kernel_distance(x, y, torch.Generator().manual_seed(3), subsets=5)
    generator = torch.Generator().manual_seed(3)
    expected = [
        squared_mmd(*(rows[torch.randperm(len(rows), generator=generator)[:12]] for rows in (x, y))) for _ in range(5)
    ]
    assert figure.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert figure.deviation == pytest.approx(np.std(expected), rel=1e-9)


def test_kid_of_two_halves_of_one_set_is_about_zero() -> None:
    """What FID at small counts cannot say."""
    x = random_tensor(400, 16, seed=5)
    figure = kernel_distance(x[:200], x[200:], torch.Generator().manual_seed(0))
    assert figure.deviation is not None
    assert abs(figure.value) < figure.deviation
    assert frechet_distance(Gaussian.of(x[:200]), Gaussian.of(x[200:])) > 0.1


def test_inception_score_is_its_definition_in_parts_and_leaves_the_global_generator_alone() -> None:
    logits = 3 * random_tensor(40, 10, seed=6)

    def score(rows: Tensor) -> float:
        odds = rows.double().softmax(dim=1)
        return float((odds * (odds.log() - odds.mean(dim=0).log())).sum(dim=1).mean().exp())

    state = torch.random.get_rng_state()
    whole, parts = inception_score(logits), inception_score(logits, part=20)
    assert torch.random.get_rng_state().equal(state)
    torch.rand(1)
    assert inception_score(logits) == whole, "to the last digit, whatever the global generator's state"
    assert whole.value == pytest.approx(score(logits), rel=1e-12) and whole.deviation is None
    expected = [score(logits[:20]), score(logits[20:])]
    assert parts.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert parts.deviation == pytest.approx(np.std(expected), rel=1e-9)
    # certain and evenly spread over C classes scores C; the same guess for all scores 1
    assert inception_score(100 * torch.eye(7)).value == pytest.approx(7, rel=1e-6)
    assert inception_score(torch.ones(5, 3)).value == pytest.approx(1)


def test_precision_and_recall_are_what_their_paper_says(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = random_tensor(30, 4, seed=7), 0.5 * random_tensor(20, 4, seed=8) + 0.4

    def covered(point: Tensor, centres: Tensor) -> bool:
        for i, centre in enumerate(centres):
            others = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if j != i)
            if float((point - centre).norm()) <= others[2]:
                return True
        return False

    precise, recalled = precision_recall(real, generated, neighbours=3)
    assert precise.tolist() == [covered(point, real) for point in generated]
    assert recalled.tolist() == [covered(point, generated) for point in real]
    # in parts, as large sets are compared
    monkeypatch.setattr(distances, "MAX_DISTANCES", 70)
    parts = precision_recall(real, generated, neighbours=3)
    assert parts[0].equal(precise) and parts[1].equal(recalled)
    # generated images that are all alike are precise but recall little
    precise, recalled = precision_recall(real, real[:1] + 0.01 * generated)
    assert precise.all()
    assert recalled.double().mean() < 0.2


def test_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = random_tensor(400, seed=9) + 5
    figure = bootstrap_mean(values, torch.Generator().manual_seed(0), resamples=1000)
    assert figure.low is not None and figure.high is not None
    error = 1.96 * float(values.std()) / math.sqrt(400)
    assert figure.value == pytest.approx(float(values.mean()))
    assert figure.low == pytest.approx(figure.value - error, abs=0.2 * error)
    assert figure.high == pytest.approx(figure.value + error, abs=0.2 * error)


def test_interval_of_a_share_stays_within_what_is_possible() -> None:
    right = (torch.arange(60) > 0).float()
    for seed in range(20):
        figure = bootstrap_mean(right, torch.Generator().manual_seed(seed))
        assert figure.low is not None and figure.high is not None and 0 <= figure.low < figure.high <= 1


def test_interval_of_a_biased_statistic_holds_its_value() -> None:
    """Resampling alone raises a Frechet distance far above its value at small counts."""
    x, y = random_tensor(40, 16, seed=1), random_tensor(40, 16, seed=2)
    for paired in (False, True):
        figure = frechet_figure(x, y, torch.Generator().manual_seed(0), 20, paired=paired)
        assert figure.value == frechet_distance(Gaussian.of(x), Gaussian.of(y))
        assert figure.low is not None and figure.high is not None
        assert figure.low < figure.value < figure.high
    same = frechet_figure(x, x, torch.Generator().manual_seed(0), 20, paired=True)
    assert same.high == pytest.approx(0, abs=1e-9), "pairs are resampled together"


def test_intervals_follow_from_the_generator_and_can_be_left_out() -> None:
    values = random_tensor(50, seed=3)
    first, again = (bootstrap_mean(values, torch.Generator().manual_seed(4)) for _ in range(2))
    assert first == again
    none = bootstrap_mean(values, torch.Generator(), resamples=0)
    assert (none.low, none.high) == (None, None)


def test_what_is_drawn_after_an_interval_does_not_depend_on_its_resamples() -> None:
    real, generated = (Features(correlated(40, 4, seed)) for seed in (0, 1))
    with_intervals, without = (
        all_figures(real, generated, "any", torch.Generator().manual_seed(0), resamples) for resamples in (7, 0)
    )
    assert with_intervals["FID (any)"].low is not None and without["FID (any)"].low is None
    assert with_intervals["KID (any)"] == without["KID (any)"]


def test_too_few_images_are_said() -> None:
    one = torch.zeros(1, 4)
    for compute in (
        lambda: Gaussian.of(one),
        lambda: kernel_distance(one, one, torch.Generator()),
        lambda: precision_recall(one, one),
    ):
        with pytest.raises(HartError, match=r"needs at least \d images, not"):
            compute()
    assert "9,999 images, fewer than 10,000" in str(few_images_warning("FID", 9_999))
    assert few_images_warning("FID", 10_000) == ()


@pytest.mark.parametrize(
    ("count", "said"), [(3, "has 3 with a class: lower --limit"), (0, "has none with a class: give")]
)
def test_a_set_without_enough_prompts_is_refused_with_what_helps(count: int, said: str) -> None:
    with pytest.raises(HartError, match=f"5 images asked for, the set {said}"):
        require_available(5, count, " with a class")


def test_psnr_is_its_definition() -> None:
    original = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    image = original.clone()
    image[0] += 10
    image[1, 0, 0, 0] += 1
    expected = [20 * math.log10(255 / 10), 20 * math.log10(255 * math.sqrt(48)), math.inf]
    assert psnr(image, original, 255).tolist() == pytest.approx(expected)
    assert psnr(image[0] / 255, original[0] / 255).item() == pytest.approx(expected[0])


def written_out(x: Tensor, y: Tensor) -> Tensor:
    """SSIM as published (Wang et al., 2004): whole windows only, Gaussian of 11 x 11, sigma 1.5, colour by colour."""
    place = torch.arange(11, dtype=torch.float64) - 5
    line = (-(place**2) / (2 * 1.5**2)).exp()
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    x, y = (images.double().flatten(0, 1)[:, None] for images in (x, y))

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window)

    a, b = mean(x), mean(y)
    vary_x, vary_y, together = mean(x * x) - a * a, mean(y * y) - b * b, mean(x * y) - a * b
    c, d = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * a * b + c) * (2 * together + d) / ((a * a + b * b + c) * (vary_x + vary_y + d))
    return values.view(-1, 3, *values.shape[2:]).mean(dim=(1, 2, 3))


@pytest.mark.parametrize("size", [11, 16, 40])
def test_ssim_is_its_definition(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randint(256, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    noise = torch.randn(original.shape, generator=generator)
    image = (0.9 * original + 10 + 20 * noise).clamp(0, 255).byte()
    image[0] = original[0]
    original[2], image[2] = 255, 255 - (torch.arange(size) % 3).byte()  # light and nearly flat
    torch.testing.assert_close(ssim(image, original), written_out(image, original), rtol=1e-6, atol=0)
    assert ssim(image, original)[0] == 1
