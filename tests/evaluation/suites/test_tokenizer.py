"""Suite `tokenizer`: figures of single images against their definitions, and what the whole suite reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hart.checkpoint.loading import load_tokenizer
from hart.data.opening import open_source
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError
from hart.evaluation import psnr, ssim
from hart.evaluation.metrics.distances import Gaussian, frechet_distance
from hart.evaluation.metrics.features import open_extractor
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import SUITES, TokenizerOptions
from hart.evaluation.suites.tokenizer import PSNR, schedule_for
from hart.grids import Grid, ScaleSchedule
from hart.networks.perceptual import perceptual_loss
from hart.sizes import ImageSize, parsed_size, schedule_of_grid
from helpers import tiny_tokenizer_config
from image_files import encoded_image

CPU = torch.device("cpu")
SIZE, SCALES = 16, (1, 2, 4, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded_image((40 * number, 100, 200 - 30 * number), (SIZE, SIZE)))
        (folder / f"{number}.txt").write_text(str(number))
    return folder


@pytest.mark.parametrize(
    ("size", "scales", "schedule"),
    [
        (SIZE, SCALES, ScaleSchedule.square(SCALES)),
        ("24x16", None, schedule_of_grid(tiny_tokenizer_config().scales, Grid(8, 12))),
    ],
    ids=["square", "wide"],
)
def test_figures_are_those_of_the_8_bit_images(
    folder: Path,
    text_model: Path,
    tmp_path: Path,
    size: int | str,
    scales: tuple[int, ...] | None,
    schedule: ScaleSchedule,
) -> None:
    options = TokenizerOptions(
        model=str(text_model), data=str(folder), split="train", size=size, scales=scales, batch_size=4, resamples=3,
        device="cpu",
    )  # fmt: skip
    result = SUITES["tokenizer"](Context(options, tmp_path / "out"))
    tokenizer, extractor = load_tokenizer(text_model), open_extractor("efficientnet-lite0", CPU)
    distance = perceptual_loss("efficientnet_lite0")
    source, transform = open_source(folder, split="train"), ImageTransform(parsed_size(str(size)))
    images = torch.stack([source.read(row).pixels(transform) for row in range(len(source))])  # type: ignore[union-attr]
    with torch.no_grad():
        rebuilt = tokenizer.reconstruct(to_signed(images), schedule)
        for kind, image in zip(("discrete", "hybrid"), rebuilt, strict=True):
            pixels = ((image + 1) * 127.5).round().byte()
            figures = {name: figure.value for name, figure in result.figures[kind].items()}
            assert figures[PSNR] == pytest.approx(float(psnr(pixels, images, 255).mean()), rel=1e-4)
            assert figures["SSIM"] == pytest.approx(float(ssim(pixels, images).mean()), rel=1e-4)
            apart = distance(to_signed(pixels), to_signed(images))
            assert figures["distance (efficientnet-lite0)"] == pytest.approx(float(apart), rel=1e-3)
            fid = frechet_distance(Gaussian.of(extractor(images).pooled), Gaussian.of(extractor(pixels).pooled))
            assert figures["rFID (efficientnet-lite0)"] == pytest.approx(fid, rel=1e-2)
            assert result.figures[kind][PSNR].low is not None
            assert result.figures[kind]["rKID (efficientnet-lite0)"].deviation is not None
    assert result.counts == {"images": len(images), "damaged": 0}
    assert result.extractor == {"name": "efficientnet-lite0", "weights_sha256": extractor.weights}
    assert "fewer than 10,000" in result.notes[0] and result.notes[1].startswith("intervals are of 3 resamples")


@pytest.mark.parametrize(("size", "grid_size"), [(256, 16), (512, 32), (1024, 64)])
def test_published_sizes_need_no_scales(size: int, grid_size: int) -> None:
    config = tiny_tokenizer_config().replace(channel_multipliers=(1, 1, 1, 1, 1))
    assert schedule_for(config, ImageSize(size, size)).final == (grid_size, grid_size)


def test_scales_that_do_not_fit_are_refused() -> None:
    config = tiny_tokenizer_config()
    assert schedule_for(config, ImageSize(16, 16), (1, 3, 8)).listed == [1, 3, 8]
    assert schedule_for(config, ImageSize(24, 12)).final == (6, 12)
    for size, scales, said in (
        (15, None, "multiples of 2 px"),
        (8, None, "at least 11 px"),
        (16, (1, 2, 7), "scales end at 7: images of 16x16 px have a latent of 8"),
        (16, (2, 8), "starts at 1"),
    ):
        with pytest.raises(HartError, match=said):
            schedule_for(config, ImageSize(size, size), scales)
