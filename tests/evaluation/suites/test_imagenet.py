"""Suite `imagenet` through its entry point on tiny counts, and its figures against ADM's evaluator written out."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg

from command_line import evaluate, figures, refused
from hart.evaluation.metrics.distances import Gaussian, SetStatistics, all_figures
from hart.evaluation.metrics.features import Features, InceptionV3
from hart.evaluation.suites.imagenet import balanced_classes
from helpers import random_tensor, unpadded

NAME = "efficientnet-lite0"


run = partial(evaluate, "imagenet")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images only."""
    path = tmp_path_factory.mktemp("reference") / "batch.npz"
    np.savez(path, np.random.default_rng(0).integers(256, size=(6, 16, 16, 3), dtype=np.uint8))
    return path


def adm_figures(
    real: Features,
    generated: Features,
    mean: np.ndarray,
    covariance: np.ndarray,
    spatial: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """What evaluations/evaluator.py of guided-diffusion computes, without its half precision, in plain numpy."""

    def frechet(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
        own = np.cov(features, rowvar=False)
        root = linalg.sqrtm(own @ covariance)
        apart = features.mean(axis=0) - mean
        return float(apart @ apart + np.trace(own) + np.trace(covariance) - 2 * np.trace(root.real))

    def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)

    assert generated.logits is not None and generated.spatial is not None
    odds = np.exp(generated.logits.double().numpy())
    odds /= odds.sum(axis=1, keepdims=True)
    scores = []
    for start in range(0, len(odds), 5000):
        part = odds[start : start + 5000]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(axis=0)))).sum(axis=1).mean()))
    a, b = real.pooled.double().numpy(), generated.pooled.double().numpy()
    radii_a, radii_b = (np.partition(squared_distances(x, x), 3, axis=1)[:, 3] for x in (a, b))
    between = squared_distances(a, b)
    return {
        "FID": frechet(b, mean, covariance),
        "sFID": frechet(generated.spatial.double().numpy(), *spatial),
        "Inception Score": float(np.mean(scores)),
        "precision": float((between <= radii_a[:, None]).any(axis=0).mean()),
        "recall": float((between <= radii_b).any(axis=1).mean()),
    }


def test_figures_are_those_of_the_published_evaluator() -> None:
    """To 1e-3, of given features: more logits than the score takes at a time, statistics of a larger set than the
    images beside them."""
    whole, whole_spatial = random_tensor(900, 12, seed=1) @ random_tensor(12, 12, seed=2), random_tensor(900, 8, seed=3)
    real = Features(whole[:300], whole_spatial[:300], random_tensor(300, 10))
    generated = Features(
        1.1 * random_tensor(500, 12, seed=4) @ random_tensor(12, 12, seed=2) + 0.3,
        random_tensor(500, 8, seed=5) + 0.2,
        3 * random_tensor(5200, 10, seed=6),
    )
    statistics = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (whole.double().numpy(), whole_spatial.numpy())]
    expected = adm_figures(real, generated, *statistics[0], statistics[1])
    pooled, spatial = (Gaussian.from_covariance(*map(torch.from_numpy, pair)) for pair in statistics)
    ours = all_figures(real, generated, "net", torch.Generator().manual_seed(0), 0, SetStatistics(pooled, spatial))
    for name, value in expected.items():
        assert ours[f"{name} (net)"].value == pytest.approx(value, abs=1e-3), name
    assert 0.1 < expected["recall"] < 1 and expected["FID"] > 1
    assert "KID (net)" in ours


def test_generates_writes_and_measures_and_goes_on_after_a_stop(
    class_model: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("--model", class_model, "--reference", reference, "--limit", 8, "--features", NAME, "--resamples", 2,
                 "--device", "cpu", "--out", out)  # fmt: skip
    result = run(*arguments)
    values = figures(result, out)
    assert values["counts"] == {"samples": 8, "references": 6}
    columns = {name.removesuffix(f" ({NAME})") for name in values["figures"]["samples"]}
    assert columns == {"FID", "KID", "precision", "recall", "Inception Score"}
    assert values["settings"]["sampling"] == {
        "guidance_scale": 1.5, "top_k": 900, "top_p": 0.96, "gumbel_smoothing": False, "maskgit_steps": 1,
        "diffusion_steps": None, "discrete_only": False, "unguided_scales": 0, "greedy_scales": 0,
    }  # fmt: skip
    for said in ("fewer than 10,000", "of 50,000 of 256 px", "6 classes"):
        assert said in result.stderr
    assert "| HART-d30 | 1.77 | 330.3 |" in unpadded((out / "table.md").read_text())
    content = (out / "samples.npz").read_bytes()
    with np.load(out / "samples.npz") as batch:
        assert batch["arr_0"].shape == (8, 8, 8, 3)
        assert sorted(Counter(batch["arr_1"].tolist()).values()) == [1, 1, 1, 1, 2, 2]
    (out / "images" / "000003.png").unlink()
    (out / "samples.npz").unlink()
    assert figures(run(*arguments), out)["figures"] == values["figures"]
    assert (out / "samples.npz").read_bytes() == content
    # the same file, as if another program had generated it
    others = tmp_path / "others"
    measured = run("--samples", out / "samples.npz", "--reference", reference, "--features", NAME, "--resamples", 2,
                   "--device", "cpu", "--out", others)  # fmt: skip
    assert figures(measured, others)["figures"] == values["figures"]
    assert not (others / "images").exists()


def test_statistics_beside_the_reference_are_what_fid_is_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With statistics for which the distance can be written down, and few features, which are soon decomposed."""
    width, spread = 12, 0.25
    features = Features(random_tensor(5, width), random_tensor(5, width, seed=1), random_tensor(5, 4, seed=2))

    class Narrow(InceptionV3):
        def __init__(self, *_: object, **__: object) -> None:
            self.name, self.weights = "inception-v3", "those of a test"

        def __call__(self, pixels: torch.Tensor) -> Features:
            rows = slice(0, len(pixels))
            assert features.spatial is not None and features.logits is not None
            return Features(features.pooled[rows], features.spatial[rows], features.logits[rows])

    generator = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", generator.integers(256, size=(5, 24, 24, 3), dtype=np.uint8))
    mean = generator.normal(size=width)
    np.savez(
        tmp_path / "reference.npz",
        arr_0=generator.integers(256, size=(4, 24, 24, 3), dtype=np.uint8),
        mu=mean, sigma=spread * np.eye(width), mu_s=np.zeros(width), sigma_s=np.eye(width),
    )  # fmt: skip
    out = tmp_path / "out"
    arguments = ("--samples", tmp_path / "samples.npz", "--reference", tmp_path / "reference.npz", "--resamples", 0,
                 "--device", "cpu", "--out", out)  # fmt: skip
    with monkeypatch.context() as narrow:
        narrow.setattr("hart.evaluation.metrics.features.InceptionV3", Narrow)
        narrow.setattr("hart.evaluation.npz.POOLED", width)
        narrow.setattr("hart.evaluation.npz.SPATIAL", width)
        values = figures(run(*arguments, "--features", "inception-v3:weights.pth"), out)
    row = {name: figure["value"] for name, figure in values["figures"]["samples"].items()}
    for name, part, centre, scale in (
        ("FID (inception-v3)", features.pooled, torch.from_numpy(mean), spread),
        ("sFID (inception-v3)", features.spatial, torch.zeros(width), 1.0),
    ):
        assert part is not None
        rows = part.double()
        roots = torch.linalg.svdvals(rows - rows.mean(dim=0)) / math.sqrt(len(rows) - 1)
        apart = (rows.mean(dim=0) - centre).square().sum()
        # tr(S + c 1 - 2 (c S)^(1/2)), S with these square roots of eigenvalues
        expected = apart + roots.square().sum() + scale * len(centre) - 2 * math.sqrt(scale) * roots.sum()
        assert row[name] == pytest.approx(float(expected), abs=1e-3)
    assert values["settings"]["fid_to"] == "statistics of the reference"
    assert "Inception Score (inception-v3)" in row
    # features of another network have nothing to do with these statistics
    other = run(*arguments, "--features", NAME)
    assert figures(other, out)["settings"]["fid_to"] == "images of the reference"
    assert "statistics are of inception-v3" in other.stderr


def test_classes_are_balanced_and_mixed() -> None:
    classes = balanced_classes(50_000, 1000, seed=0)
    # any 5,000 in a row, which the Inception Score takes together, have every class equally often
    assert set(Counter(classes[5000:10_000]).values()) == {5}
    few = balanced_classes(2300, 1000, seed=0)
    assert set(Counter(few).values()) == {2, 3}
    assert few != balanced_classes(2300, 1000, seed=1)
    assert max(balanced_classes(20, 1000, seed=0)) > 500, "not the first classes only, which are all animals"


def test_bad_input_is_one_line(text_model: Path, class_model: Path, reference: Path, tmp_path: Path) -> None:
    common = ("--reference", reference, "--features", NAME, "--out", tmp_path / "out")
    for given, said in (
        ((), "give either --model"),
        (("--model", class_model, "--samples", reference), "give either --model"),
        (("--model", text_model), "this model generates from text"),
    ):
        assert said in refused(run(*given, *common), notes=True)
