"""Training data: the address decides how it is read, and every way gives the same images to the last bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.config import ConfigError
from hart.data.datasets import open_dataset
from hart.data.transforms import to_signed
from hart.errors import HartError
from hart.training.config import LoraConfig, ReadingConfig, TokenizerRecipe, TransformerRecipe
from hart.training.image_sources import (
    EncodedImages,
    LoadedImages,
    MemoryImages,
    TrainingData,
    image_source,
    open_training_data,
)
from hart.training.task import Microbatch
from hart.training.transformer_task import TransformerTask
from hart.types import TextContext, TokenMaps
from image_files import captioned, class_folders, numbered
from toy_training import captioned_recipe, class_recipe, recipe, tiny_tokenizer_recipe, tiny_transformer_recipe

CPU = torch.device("cpu")
WHOLE = Microbatch(0, 0, 4, slice(0, 4))


def opened(given: Any) -> TrainingData:
    return open_training_data(given, 8)


def tokenizer_recipe(data: Path | str, **reading: Any) -> TokenizerRecipe:
    return tiny_tokenizer_recipe(recipe(data=str(data))).replace(reading=ReadingConfig(**reading))


# --- what an address is


def test_the_address_decides_how_images_are_read_and_it_is_said(encoded: Path, shards: Path, tmp_path: Path) -> None:
    images = encoded / "images"
    (tmp_path / "set.jsonl").write_text(json.dumps({"image": str(images / "train" / "0001.png"), "text": "one"}))
    pipes = f"pipe:cat {shards}/train-{{0000..0003}}.tar"
    for address, kind, said in (
        (images, MemoryImages, "held in memory"),
        (tmp_path / "set.jsonl", MemoryImages, "JSON lines"),
        (f"{shards}/train-{{0000..0003}}.tar", MemoryImages, "1 damaged left out"),
        (pipes, LoadedImages, "a stream cannot be read at random"),
        (encoded / "codes", EncodedImages, "neither images nor prompts are encoded"),
    ):
        data = opened(tokenizer_recipe(address, **({} if kind is EncodedImages else {"max_damaged": 0.1})))
        assert isinstance(data, kind), address
        assert said in data.description and "\n" not in data.description
    for reading, why in (
        ({"memory_gb": 1e-7}, "decoded, reading.memory_gb is 1e-07"),
        ({"flip": 0.5}, "random crops or flips"),
    ):
        data = opened(tokenizer_recipe(images, **reading))
        assert isinstance(data, LoadedImages) and why in data.description
    with pytest.raises(HartError, match="only tar shards can be read from the web"):
        opened(tokenizer_recipe("https://example.org/set/images.zip"))


def test_a_parquet_file_trains(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"photo": [numbered(n) for n in range(6)], "words": [f"{n}" for n in range(6)]})
    pq.write_table(table, tmp_path / "set.parquet")
    data = opened(captioned_recipe(tmp_path / "set.parquet", image_column="photo", caption_column="words"))
    assert isinstance(data, LoadedImages)
    assert [sample.captions for sample, _ in data.first_samples(2)] == [("0",), ("1",)]
    assert image_source(data).images(WHOLE, CPU).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_missing_caption_is_damage_and_named(memory_gb: float, tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 9, bare=(3,))
    with pytest.raises(HartError, match=r"more than 5% .* 1 of 9 .*3\.png: no caption.* with reading\.max_damaged"):
        read_some(opened(captioned_recipe(folder, memory_gb=memory_gb)))
    data = opened(captioned_recipe(folder, memory_gb=memory_gb, max_damaged=0.2))
    read_some(data)
    assert [Path(damage.key).name for damage in data.damaged] == ["3.png"]
    assert isinstance(data, LoadedImages) or "1 damaged left out" in data.description


def read_some(data: TrainingData) -> None:
    if isinstance(data, LoadedImages):
        for step in range(9):
            data.loader.batch(step)


def test_adapters_learn_from_all_images_unless_told(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 30)
    given = tiny_transformer_recipe(recipe(data=str(folder)), tmp_path / "model")
    adapted = given.replace(init_from=str(tmp_path / "model"), lora=LoraConfig(rank=2, alpha=2))
    for own, count, said in (
        (given, 28, "2 more held out (5% by name; split 'all' takes them all)"),
        (adapted, 30, "none held out"),
        (adapted.replace(reading=ReadingConfig(split="train")), 28, "2 more held out"),
        (given.replace(reading=ReadingConfig(split="all")), 30, "none held out"),
    ):
        data = opened(own)
        assert isinstance(data, MemoryImages)
        assert len(data.captioned) == count and said in data.description
    folder.rename(tmp_path / "train")
    data = opened(adapted.replace(data=str(tmp_path)))
    assert isinstance(data, MemoryImages) and len(data.captioned) == 30


@pytest.mark.parametrize("form", ["folder", "classes", "lines", "codes"])
def test_a_folder_is_listed_once(form: str, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a million images on a network takes a minute each time."""
    folder = encoded / "codes" if form == "codes" else captioned(tmp_path / "set", 30)
    if form == "classes":
        class_folders(folder, 2)
        for file in folder.glob("*.png"):
            file.unlink()
    if form in {"classes", "lines"}:
        for file in folder.glob("*.txt"):
            file.unlink()
    if form == "lines":
        records = [{"image": f"{number}.png", "text": "a"} for number in range(30)]
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    given = class_recipe(folder) if form == "classes" else captioned_recipe(folder)
    adapted = given.replace(init_from=str(tmp_path / "model"), lora=LoraConfig(rank=2, alpha=2))
    scandir, listed = os.scandir, list[str]()
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(str(path)), scandir(path))[1])
    assert opened(adapted)
    assert str(folder) in listed and sorted(set(listed)) == sorted(listed)


def test_memory_and_loader_show_the_same_images(encoded: Path) -> None:
    memory, loaded = (image_source(opened(tokenizer_recipe(encoded / "images", memory_gb=size))) for size in (4.0, 0.0))
    expected = open_dataset(encoded / "images", "train", 8)
    for step in (0, 2):
        microbatch = Microbatch(0, step, 4, slice(1, 3))
        assert torch.equal(memory.images(microbatch, CPU), loaded.images(microbatch, CPU))
    assert torch.equal(memory.first(3), to_signed(expected.pixels[:3]))
    assert torch.equal(loaded.first(3), memory.first(3))


def test_a_set_kept_on_the_device_trains_as_one_that_is_not(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its captions are encoded once."""
    losses = []
    for on_device in (False, True):
        base = tiny_transformer_recipe(recipe(data=str(encoded / "images")), encoded / "model")
        given = base.replace(augmentations=2, reading=ReadingConfig(on_device=on_device))
        task = TransformerTask(given, opened(given))
        task.prepare()
        if on_device:
            monkeypatch.setattr(task.texts.encoder, "blocks", None)
        losses.append(task.loss("model", task.batch(WHOLE))[0])
        assert len(task.tokens.first(3)) == 3
    torch.testing.assert_close(*losses)
    given = base.replace(data=str(encoded / "images"), reading=ReadingConfig(on_device=True, memory_gb=0.0))
    with pytest.raises(HartError, match=r"reading\.on_device keeps images that are held in memory, and .* every step"):
        opened(given)


def test_what_cannot_be_done_with_a_set_is_refused(encoded: Path, shards: Path) -> None:
    val = tiny_transformer_recipe(recipe(data=str(encoded / "codes")), encoded / "model")
    val = val.replace(reading=ReadingConfig(split="val"))
    with pytest.raises(HartError, match=r"codes: encoded, but not its split 'val': set reading\.split to train"):
        opened(val)
    with pytest.raises(HartError, match="holds codes and no images"):
        image_source(opened(tokenizer_recipe(encoded / "codes")))
    with pytest.raises(HartError, match=r"more than 5% of the images are damaged, 1 of 12 .*with reading\.max_damaged"):
        opened(tokenizer_recipe(shards))
    given = tiny_transformer_recipe(recipe(data=str(encoded / "codes")), encoded / "model").replace(augmentations=2)
    with pytest.raises(ConfigError, match=r"augmentations is 2, but .*codes holds each image in one version: set"):
        TransformerTask(given, opened(given))


@pytest.mark.parametrize(("name", "value"), [("kind", "folder"), ("fit", "pad"), ("flip", 0.5), ("memory_gb", 0.0)])
def test_an_encoded_set_takes_no_setting_that_it_does_not_follow(encoded: Path, name: str, value: Any) -> None:
    refused = "images" if name == "kind" else rf"reading\.{name} cannot change it"
    with pytest.raises(HartError, match=refused):
        opened(tokenizer_recipe(encoded / "codes", **{name: value}))


# --- token maps


def test_images_that_are_read_in_every_step_are_augmented_anew(encoded: Path) -> None:
    plain = tiny_transformer_recipe(recipe(data=str(encoded / "images"), batch_size=8), encoded / "model")
    plain = plain.replace(reading=ReadingConfig(memory_gb=0.0))

    def maps(given: TransformerRecipe, rows: slice = slice(0, 8), step: int = 0) -> TokenMaps:
        return TransformerTask(given, opened(given)).tokens.batch(Microbatch(0, step, 8, rows))[0]

    moved, mended = maps(plain.replace(augmentations=2)), maps(plain.replace(augmentations=2, code_corruption=1.0))
    changed = (moved.last_scale_continuous != maps(plain).last_scale_continuous).flatten(1).any(dim=1)
    assert 1 <= changed.sum() <= 7, "some are the images themselves"
    wrong = (mended.teacher_forcing_input != moved.teacher_forcing_input).flatten(1).any(dim=1)
    assert wrong.any() and not (wrong & ~changed).any(), "codes are corrupted in the augmented versions alone"
    part = maps(plain.replace(augmentations=2, code_corruption=1.0), slice(4, 6))
    torch.testing.assert_close(part.teacher_forcing_input, mended.teacher_forcing_input[4:6])
    assert not torch.equal(
        moved.last_scale_continuous, maps(plain.replace(augmentations=2), step=1).last_scale_continuous
    )


def test_codes_of_an_encoded_set_are_corrupted_anew_in_every_step(encoded: Path) -> None:
    plain = tiny_transformer_recipe(recipe(data=str(encoded / "codes"), batch_size=8), encoded / "model")

    def maps(given: TransformerRecipe, rows: slice = slice(0, 8), step: int = 0) -> TokenMaps:
        return TransformerTask(given, opened(given)).tokens.batch(Microbatch(0, step, 8, rows))[0]

    right, mended = maps(plain), maps(plain.replace(code_corruption=1.0))
    assert torch.equal(right.indices[0], mended.indices[0]), "targets of the first scale are those of the image"
    wrong = (mended.teacher_forcing_input - right.teacher_forcing_input).abs().flatten(1).amax(dim=1) > 1e-3
    assert wrong.sum() >= 4
    part = maps(plain.replace(code_corruption=1.0), slice(4, 6))
    torch.testing.assert_close(part.teacher_forcing_input, mended.teacher_forcing_input[4:6])
    # with hardly any wrong ones, codes and residual give back what was stored
    almost = maps(plain.replace(code_corruption=1e-9))
    torch.testing.assert_close(almost.teacher_forcing_input, right.teacher_forcing_input, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(almost.last_scale_continuous, right.last_scale_continuous, rtol=1e-4, atol=1e-4)


def test_every_source_gives_the_maps_of_its_images(encoded: Path) -> None:
    """Codes stored in float32 and images encoded in the step agree, images, captions and all."""
    given = tiny_transformer_recipe(recipe(data=str(encoded / "codes")), encoded / "model")
    stored = TransformerTask(given, opened(given))
    live_recipe = given.replace(data=str(encoded / "images"), reading=ReadingConfig(memory_gb=0.0))
    live = TransformerTask(live_recipe, opened(live_recipe))
    memory_recipe = given.replace(data=str(encoded / "images"))
    memory = TransformerTask(memory_recipe, opened(memory_recipe))
    memory.prepare()
    for rows in (slice(0, 4), slice(2, 3)):
        microbatch = Microbatch(0, 1, 4, rows)
        batches = [task.batch(microbatch) for task in (stored, live, memory)]
        for batch in batches[1:]:
            assert all(torch.equal(a, b) for a, b in zip(batch.maps.indices, batches[0].maps.indices, strict=True))
            torch.testing.assert_close(batch.maps.teacher_forcing_input, batches[0].maps.teacher_forcing_input)
        assert isinstance(batches[0].context, TextContext) and isinstance(batches[1].context, TextContext)
        torch.testing.assert_close(batches[1].context.embeddings, batches[0].context.embeddings)
    first = [task.tokens.first(2) for task in (stored, live, memory)]
    assert first[1] == first[2] == ("first of 0", "first of 1")
    torch.testing.assert_close(first[0].embeddings, live.texts.encoder.encode(first[1]).embeddings)


def test_a_precomputed_set_runs_neither_encoder(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tiny_transformer_recipe(recipe(data=str(encoded / "codes")), encoded / "model")
    task = TransformerTask(given, opened(given))
    monkeypatch.setattr(task.tokenizer, "encoder", None)
    monkeypatch.setattr(task.texts.encoder, "blocks", None)
    task.prepare()
    loss, _ = task.loss("model", task.batch(WHOLE))
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": [1, 2, 4]}, r"has the scales \[1, 2, 4\].*--scales"),
        ({"base_scales": [1, 2, 3]}, r"base scales \[1, 2, 3\], the recipe \[\]: encode it again"),
        ({"residual": False}, "without --no-residual"),
        ({"text_encoder": None}, "no text features.*--text-encoder"),
        ({"text_encoder": "other"}, "another text encoder"),
        ({"tokenizer": "other"}, "another tokenizer"),
        ({"text_tokens": 9}, "has the text tokens 9, the recipe 12: encode it again"),
        ({"text_instruction": True}, "text_instruction True, the recipe False: set it"),
    ],
)
def test_a_set_that_was_encoded_otherwise_is_refused(encoded: Path, change: dict[str, Any], message: str) -> None:
    given = tiny_transformer_recipe(recipe(data=str(encoded / "codes")), encoded / "model")
    data = opened(given)
    assert isinstance(data, EncodedImages)
    for name, value in change.items():
        data.data.settings[name] = value
    with pytest.raises(HartError, match=message):
        TransformerTask(given, data)
