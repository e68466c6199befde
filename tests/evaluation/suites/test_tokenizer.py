"""Suite `tokenizer`: figures of single pictures against their definitions, and what the whole suite reports."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pytorch_msssim import ssim

from hart.data.opening import open_source
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError
from hart.evaluation.metrics.distances import Gaussian, frechet_distance
from hart.evaluation.metrics.features import open_extractor
from hart.evaluation.pictures import Pictures
from hart.evaluation.suites.tokenizer import (
    PSNR,
    ReconstructionOptions,
    evaluate_tokenizer,
    perceptual_distance,
    psnr,
    schedule_for,
)
from hart.scales import ScaleSchedule
from helpers import tiny_model, tiny_text_config, tiny_tokenizer_config
from picture_files import picture

CPU = torch.device("cpu")
SIZE, SCALES = 16, (1, 2, 4, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(picture((40 * number, 100, 200 - 30 * number), (SIZE, SIZE)))
        (tmp_path / f"{number}.txt").write_text(str(number))
    return tmp_path


def test_psnr_is_its_definition() -> None:
    original = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    image = original.clone()
    image[0] += 10
    image[1, 0, 0, 0] += 1
    expected = [20 * math.log10(255 / 10), 20 * math.log10(255 * math.sqrt(48)), 100.0]
    assert psnr(image, original).tolist() == pytest.approx(expected)


def test_figures_are_those_of_the_8_bit_pictures(folder: Path, tmp_path: Path) -> None:
    tokenizer, _ = tiny_model(tiny_text_config())
    source = open_source(folder, kind="folder", split="train")
    transform = ImageTransform(SIZE)
    extractor, distance = open_extractor("efficientnet-lite0", CPU), perceptual_distance("efficientnet_lite0", [], CPU)
    result = evaluate_tokenizer(
        tokenizer,
        Pictures(source, transform),
        ScaleSchedule(SCALES),
        extractor,
        distance,
        tmp_path / "out",
        ReconstructionOptions(batch_size=4, resamples=3),
        {"model": "tiny"},
    )
    images = torch.stack([source.read(row).pixels(transform) for row in range(len(source))])  # type: ignore[union-attr]
    with torch.no_grad():
        for kind in ("discrete", "hybrid"):
            image = tokenizer.reconstruct(
                to_signed(images), discrete=kind == "discrete", schedule=ScaleSchedule(SCALES)
            )
            pixels = ((image + 1) * 127.5).round().byte()
            figures = {name: figure.value for name, figure in result.figures[kind].items()}
            assert figures[PSNR] == pytest.approx(float(psnr(pixels, images).mean()), rel=1e-4)
            similarity = ssim(pixels.float(), images.float(), data_range=255)
            assert figures["SSIM"] == pytest.approx(float(similarity), rel=1e-4)
            apart = distance.module(to_signed(pixels), to_signed(images))
            assert figures["distance (efficientnet-lite0)"] == pytest.approx(float(apart), rel=1e-3)
            fid = frechet_distance(Gaussian.of(extractor(images).pooled), Gaussian.of(extractor(pixels).pooled))
            assert figures["rFID (efficientnet-lite0)"] == pytest.approx(fid, rel=1e-2)
            assert result.figures[kind][PSNR].low is not None
            assert result.figures[kind]["rKID (efficientnet-lite0)"].deviation is not None
    assert result.counts == {"pictures": len(images), "damaged": 0}
    assert result.extractor == {"name": "efficientnet-lite0", "weights_sha256": extractor.weights}
    (note,) = result.notes
    assert "fewer than 10,000" in note


@pytest.mark.parametrize(("size", "side"), [(256, 16), (512, 32), (1024, 64)])
def test_published_sizes_need_no_scales(size: int, side: int) -> None:
    config = tiny_tokenizer_config().replace(channel_multipliers=(1, 1, 1, 1, 1))
    assert schedule_for(config, size).final_side == side


def test_scales_that_do_not_fit_are_refused() -> None:
    config = tiny_tokenizer_config()
    assert schedule_for(config, 16, (1, 3, 8)).sides == (1, 3, 8)
    for size, scales, said in (
        (15, None, "give a multiple of 2 px"),
        (8, None, "at least 11 px"),
        (16, (1, 2, 7), "scales end at 7: pictures of 16 px have a latent of 8 x 8"),
        (16, (2, 8), "starts at 1"),
    ):
        with pytest.raises(HartError, match=said):
            schedule_for(config, size, scales)
