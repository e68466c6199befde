"""Distances between two sets of features, scores of one set, and all of them together; SSIM of two images.

Features are compared in float64. Shapes: N real images, M generated ones, D width of a feature, C classes, B batch.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hart.evaluation.metrics.features import Features
from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean, require_images

CHUNK = 4096
"""Rows added to a covariance at once."""
MAX_DISTANCES = 2**25
"""Distances between two sets held at once: 256 MiB, and as much again while they are computed."""


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance of a set, the covariance as a factor (R, D): covariance = factor^T factor."""

    mean: Tensor
    factor: Tensor

    @staticmethod
    def of(features: Tensor) -> Gaussian:
        """Fit features (N, D), N at least 2, with the unbiased covariance."""
        count, width = features.shape
        require_images(count, 2, "a covariance")
        mean = features.mean(dim=0, dtype=torch.float64)
        if count <= width:  # the centred rows are a factor already
            return Gaussian(mean, (features.double() - mean) / math.sqrt(count - 1))
        scatter = torch.zeros(width, width, dtype=torch.float64)
        for chunk in features.split(CHUNK):
            centred = chunk.double() - mean
            scatter += centred.T @ centred
        return Gaussian.from_covariance(mean, scatter / (count - 1))

    @staticmethod
    def from_covariance(mean: Tensor, covariance: Tensor) -> Gaussian:
        """Make one from a mean (D,) and a covariance (D, D), such as published statistics."""
        values, vectors = torch.linalg.eigh(covariance.double())
        return Gaussian(mean.double(), values.clamp(min=0).sqrt()[:, None] * vectors.T)


@dataclass(frozen=True)
class SetStatistics:
    """Published statistics of a whole set: of pooled features, for FID, and of spatial ones, for sFID."""

    pooled: Gaussian
    spatial: Gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)): FID, rFID or sFID, by the features (Heusel et al., 2017).

    With A = F^T F and B = G^T G the last trace is the sum of the singular values of F G^T, which needs no root of an
    asymmetric matrix, and is small for sets smaller than the features are wide.
    """
    common = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    distance = (a.mean - b.mean).square().sum() + a.factor.square().sum() + b.factor.square().sum() - 2 * common
    return max(float(distance), 0.0)


def frechet_figure(
    real: Tensor | Gaussian, generated: Tensor, generator: torch.Generator, resamples: int, *, paired: bool = False
) -> Figure:
    """Return the distance between features (N, D) and (M, D), with an interval over the images of both.

    real: features, or the statistics of a set without them; then only generated images are resampled.
    paired: rows of both belong together and are resampled together, as an image and its reconstruction.
    """

    def distance(*rows: Tensor) -> float:
        of_real = real if isinstance(real, Gaussian) else Gaussian.of(real[rows[0]])
        return frechet_distance(of_real, Gaussian.of(generated[rows[-1]]))

    counts = [len(generated)] if paired or isinstance(real, Gaussian) else [len(real), len(generated)]
    return bootstrap(distance, counts, generator, resamples, biased=True)


def kernel_distance(
    x: Tensor, y: Tensor, generator: torch.Generator, *, subsets: int = 100, subset_size: int = 1000
) -> Figure:
    """Return KID (Binkowski et al., 2018) of features x (N, D) and y (M, D): mean and deviation over random subsets.

    The unbiased squared MMD with the kernel (x.y / D + 1)^3; it may be negative. Subsets have `subset_size` rows, or
    half the smaller set if it has fewer than twice as many, so that they differ. torchmetrics' own class chooses them
    with the global generator.
    """
    from torchmetrics.image.kid import poly_mmd  # takes a second to import

    size = min(subset_size, len(x) // 2, len(y) // 2)
    require_images(size, 2, "KID, of half of the images,")
    x, y = x.double(), y.double()

    def subset(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)[:size]]

    values = torch.stack([poly_mmd(subset(x), subset(y)) for _ in range(subsets)])
    return Figure(float(values.mean()), deviation=float(values.std(correction=0)))


def inception_score(logits: Tensor, part: int = 5000) -> Figure:
    """Return mean and deviation over parts of exp(mean KL(p(class | image), p(class))) (Salimans et al., 2016).

    logits: (N, C). Parts are in order, the last perhaps smaller, as in ADM's protocol. The score depends on the network
    that gives the logits.
    """
    from torchmetrics.image.inception import InceptionScore  # takes a second to import

    scores = []
    for rows in logits.double().split(part):
        # one metric per part, with a single split: with several it would mix the rows
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)  # it shuffles even a single part, which affects the last digit
            metric = InceptionScore(nn.Identity(), splits=1)
            metric.update(rows)
            scores.append(metric.compute()[0])
    values = torch.stack(scores)
    return Figure(float(values.mean()), deviation=float(values.std(correction=0)) if len(scores) > 1 else None)


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[Tensor, Tensor]:
    """Return improved precision and recall (Kynkaanniemi et al., 2019) of features (N, D) and (M, D), as in ADM.

    A set's manifold: balls around its images that reach to the k-th nearest other one (ADM: k = 3). Precision is the
    share of generated images in the manifold of the real ones, recall the reverse. Returns which images are: (M,), (N,)
    bool.
    """
    require_images(min(len(real), len(generated)), neighbours + 1, "precision and recall")
    real, generated = real.double(), generated.double()
    precise = _within(generated, real, _radii(real, neighbours))
    return precise, _within(real, generated, _radii(generated, neighbours))


def _radii(rows: Tensor, neighbours: int) -> Tensor:
    """Return (N,), the distance of each row to its k-th nearest other one."""
    # each row is its own nearest, so one more is requested; a few smallest take far less work than sorting all
    parts = [
        torch.cdist(part, rows).topk(neighbours + 1, dim=1, largest=False).values[:, -1]
        for part in _compared(rows, rows)
    ]
    return torch.cat(parts)


def _within(rows: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Return (N,) bool: whether each row lies in any of the balls."""
    return torch.cat([(torch.cdist(part, centres) <= radii).any(dim=1) for part in _compared(rows, centres)])


def _compared(rows: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    """Split the rows into parts that can be compared with all others at once, whatever their number."""
    return rows.split(max(1, MAX_DISTANCES // len(others)))


def all_figures(
    real: Features,
    generated: Features,
    extractor: str,
    generator: torch.Generator,
    resamples: int,
    whole: SetStatistics | None = None,
    *,
    manifolds: bool = True,
) -> dict[str, Figure]:
    """Return FID, KID, precision and recall; sFID and the Inception Score if the features have what they need.

    extractor: its name, for the columns. whole: statistics of the set that `real` is a part of; FID and sFID then
    compare with the whole set. manifolds: False leaves out precision and recall.
    """
    to = real if whole is None else whole
    figures = {
        f"FID ({extractor})": frechet_figure(to.pooled, generated.pooled, generator, resamples),
        f"KID ({extractor})": kernel_distance(real.pooled, generated.pooled, generator),
    }
    if manifolds:
        for name, inside in zip(("precision", "recall"), precision_recall(real.pooled, generated.pooled), strict=True):
            figures[f"{name} ({extractor})"] = bootstrap_mean(inside, generator, resamples)
    if to.spatial is not None and generated.spatial is not None:
        figures[f"sFID ({extractor})"] = frechet_figure(to.spatial, generated.spatial, generator, resamples)
    if generated.logits is not None:
        figures[f"Inception Score ({extractor})"] = inception_score(generated.logits)
    return figures


SSIM_WINDOW = 11
"""Size in pixels of its Gaussian window, with sigma 1.5."""


def ssim(image: Tensor, original: Tensor) -> Tensor:
    """Return the structural similarity (B,) of 8-bit images (B, 3, H, W), at least `SSIM_WINDOW` pixels a side."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes a second to import

    # in float32 the variance of a flat light area is rounding noise, not 0 on average; Apple GPUs have no float64
    device = image.device if image.device.type == "cuda" else "cpu"
    image, original = (images.to(device, torch.float64) for images in (image, original))
    _, similarity = structural_similarity_index_measure(
        image, original, sigma=1.5, reduction="none", data_range=255.0, return_full_image=True
    )
    # only over whole windows, as published: torchmetrics' own mean includes windows of a mirrored border
    border = SSIM_WINDOW // 2
    return similarity[..., border:-border, border:-border].mean(dim=(1, 2, 3))
