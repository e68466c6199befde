"""Training on images of several shapes: what a step sees, from images and from an encoded set, and after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hart.checkpoint.loading import load_tokenizer
from hart.config import HartConfig
from hart.data.encoded import EncodedSet
from hart.data.opening import open_source
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.sizes import ImageSize, aspect_sizes, trained_sizes
from hart.training.config import ReadingConfig, Recipe
from hart.training.encode_options import EncodeOptions
from hart.training.encoding import encode_dataset
from hart.training.image_sources import open_training_data
from hart.training.task import Microbatch, Task
from hart.training.trainer import Trainer
from hart.training.transformer_task import TransformerTask
from helpers import tiny_tokenizer_config
from image_files import numbered
from models import save_tiny_text_model
from toy_training import reading_task, recipe, tiny_encoders, tiny_tokenizer_recipe, tiny_transformer_recipe
from training_state import assert_resumes

ASPECTS = ("1:1", "4:1", "1:4")
SIZES = aspect_sizes(tiny_tokenizer_config(), ASPECTS)
OPTIONS = EncodeOptions(dtype="float32", shard_size=4, batch_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, twelve captioned `images` of three shapes, and their `codes`."""
    path = tmp_path_factory.mktemp("shapes")
    model = save_tiny_text_model(path / "model")
    (path / "images").mkdir()
    for number in range(12):
        (path / "images" / f"{number:02d}.png").write_bytes(numbered(number, [(16, 16), (32, 9), (8, 30)][number % 3]))
        (path / "images" / f"{number:02d}.txt").write_text("a cat")
    encoders = tiny_encoders(model)
    source = open_source(path / "images", "all")
    encode_dataset(source, ImageTransform(8), encoders, path / "codes", "train", OPTIONS, aspects=ASPECTS)
    return path


def made(kind: str, folder: Path) -> tuple[Task, Recipe]:
    reading = ReadingConfig(aspects=ASPECTS) if kind == "codes" else ReadingConfig(aspects=ASPECTS, split="all")
    given = recipe(data=str(folder / ("codes" if kind == "codes" else "images"))).replace(reading=reading)
    if kind == "tokenizer":
        own = tiny_tokenizer_recipe(given).replace(reading=reading, adversarial=None)
        return reading_task(own, SIZES), own
    other = tiny_transformer_recipe(given, folder / "model").replace(reading=reading)
    return reading_task(other, SIZES), other


def test_sizes_of_the_aspects() -> None:
    assert list(map(str, SIZES)) == ["8x8", "16x4", "4x16"]
    with pytest.raises(HartError, match="aspect 8:1: images of 16 tokens are too small"):
        aspect_sizes(tiny_tokenizer_config(), ["8:1"])


def test_a_discriminator_needs_the_shorter_side() -> None:
    own = tiny_tokenizer_recipe(recipe())  # 1 layer, adversarial
    with pytest.raises(HartError, match="images of at least 6 px, not 4: set fewer"):
        own.replace(reading=ReadingConfig(aspects=ASPECTS))


@pytest.mark.parametrize("kind", ["tokenizer", "images", "codes"])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(folder: Path, tmp_path: Path, kind: str) -> None:
    assert_resumes(lambda out: Trainer(*made(kind, folder), out), tmp_path, 6)
    if kind != "tokenizer":
        assert trained_sizes(HartConfig.load(tmp_path / "model" / "config.json")) == SIZES


@pytest.mark.parametrize("kind", ["images", "codes"])
def test_token_maps_have_the_schedule_of_their_step(folder: Path, kind: str) -> None:
    task, _ = made(kind, folder)
    assert isinstance(task, TransformerTask)
    seen = set()
    for step in range(8):
        batch = task.batch(Microbatch(0, step, 4, slice(0, 4)))
        schedule = batch.maps.schedule
        assert tuple(index.shape[1] for index in batch.maps.indices) == schedule.token_counts
        assert task.loss("model", batch)[0].isfinite()
        seen.add(str(schedule.final))
    assert len(seen) > 1 and seen <= {"4", "8x2", "2x8"}
    assert trained_sizes(task.config) == SIZES


def test_codes_are_those_of_the_images(folder: Path) -> None:
    tokenizer, data = load_tokenizer(folder / "model"), EncodedSet(folder / "codes")
    assert len(data) == 12 and data.aspects == ASPECTS
    assert [int((data.shapes == shape).sum()) for shape in range(3)] == [4, 4, 4]
    live, _ = made("images", folder)
    stored, _ = made("codes", folder)
    assert isinstance(live, TransformerTask) and isinstance(stored, TransformerTask)
    source = open_source(folder / "images", "all")
    for shape, size in enumerate(SIZES):
        rows = (data.shapes == shape).nonzero().flatten().tolist()
        batch = data.batch(rows, [0] * 4)
        samples = [source.read(row) for row in range(12) if row % 3 == shape]  # type: ignore[union-attr]
        pixels = torch.stack([sample.pixels(ImageTransform(size)) for sample in samples])
        with torch.inference_mode():
            maps = tokenizer.token_maps(tokenizer.encode(pixels / 127.5 - 1), batch.schedule)
        assert size == ImageSize(2 * batch.schedule.final.width, 2 * batch.schedule.final.height)
        codes = {tuple(torch.cat(maps.indices, dim=1)[i].tolist()) for i in range(4)}
        assert {tuple(torch.cat(batch.indices, dim=1)[i].tolist()) for i in range(4)} == codes


def test_an_encoded_set_of_other_shapes_is_refused(folder: Path) -> None:
    given = tiny_transformer_recipe(recipe(data=str(folder / "codes")), folder / "model")
    with pytest.raises(HartError, match=r"has the aspects .*1:4.*, the recipe .*set reading\.aspects"):
        TransformerTask(given, open_training_data(given, 8))
