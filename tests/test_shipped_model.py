"""The model that comes with the package: it opens, is small, and generates what a few plain words say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from hart import HartPipeline
from hart.checkpoint.folders import SHIPPED_MODELS
from hart.checkpoint.loading import load_tokenizer
from hart.text_encoder import text_encoder_config

EMOJI = SHIPPED_MODELS / "emoji"
MEGABYTE = 1_000_000


def mean_colour(images: Sequence[Image.Image]) -> np.ndarray:
    """Mean red, green and blue, 0 to 255, of everything that is not nearly white."""
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image in images]).astype(float)
    return pixels[pixels.min(axis=1) < 220].mean(axis=0)


def test_all_files_together_stay_small() -> None:
    assert sum(file.stat().st_size for file in EMOJI.iterdir()) <= 32 * MEGABYTE


@pytest.mark.parametrize(
    ("prompt", "channel"), [("a red heart", 0), ("a green heart", 1), ("a blue heart", 2), ("a red apple", 0)]
)
def test_the_named_colour_is_the_strongest(emoji: HartPipeline, prompt: str, channel: int) -> None:
    assert mean_colour(emoji(prompt, num_images_per_prompt=2, batch_size=2).images).argmax() == channel


def test_an_image_stands_on_white(emoji: HartPipeline) -> None:
    corners = [
        corner for image in emoji("a red apple", num_images_per_prompt=2).images for corner in corner_means(image)
    ]
    assert np.mean(corners) > 240


def corner_means(image: Image.Image, image_size: int = 8) -> list[float]:
    """Mean brightness, 0 to 255, of the four squares of `image_size` pixels in the corners."""
    array = np.asarray(image)
    ends = (slice(None, image_size), slice(-image_size, None))
    return [float(array[rows, columns].mean()) for rows in ends for columns in ends]


def test_training_can_start_from_its_parts() -> None:
    assert text_encoder_config(EMOJI).tokens == 16
    assert load_tokenizer(EMOJI).config.scales == (1, 2, 3, 4, 6, 8)
