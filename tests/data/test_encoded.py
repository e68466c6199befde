"""An encoded set is checked when it is opened: whatever is wrong with it is one line that names the file."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hart.data.encoded import EncodedLoader, EncodedSet
from hart.data.encoded_files import encoded_splits, is_encoded_set
from hart.data.opening import open_source
from hart.errors import HartError
from mutations import damage_file
from toy_training import tiny_encoded_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoded_set(tmp_path_factory.mktemp("encoded")) / "codes"


@pytest.fixture
def codes(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "codes"))


def read(folder: Path) -> None:
    """All that a run reads of a set."""
    data = EncodedSet(folder)
    data.require_codes_of(4096)
    sent = pickle.loads(pickle.dumps(data))  # as by systems that cannot fork
    loader = EncodedLoader(sent, batch_size=3, seed=0)
    for step in range(len(data)):
        loader.batch(step)


def change_shard(folder: Path, name: str, change: Callable[[Tensor], Tensor | None]) -> None:
    file = folder / "train-00001.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, file, metadata)


FLAT = ("codes", "labels", "weights", "shapes", "caption_edges")
DEEP = ("last_scale", "text_mask", "text_place", "text_features")
EVERY = (*FLAT, *DEEP)
CHANGES: dict[str, tuple[tuple[str, ...], Callable[[Tensor], Tensor | None]]] = {
    "missing": (EVERY, lambda tensor: None),
    "shorter": (EVERY, lambda tensor: tensor[:-1]),
    "empty": (EVERY, lambda tensor: tensor[:0]),
    "flat": (DEEP, torch.flatten),
    "of another type": (EVERY, lambda tensor: tensor.bool()),
    "out of range": (("codes", "shapes", "text_place"), lambda tensor: torch.full_like(tensor, 2**31 - 1)),
    "negative": (
        ("codes", "labels", "weights", "shapes", "caption_edges", "text_place"),
        lambda tensor: tensor * 0 - 5,
    ),
    "not finite": (("weights", "last_scale", "text_features"), lambda tensor: tensor * float("nan")),
    "all nothing": (("caption_edges",), torch.zeros_like),
}
CASES = [(name, what) for what, (names, _) in CHANGES.items() for name in names]


@pytest.mark.parametrize(("name", "what"), CASES)
def test_a_tensor_that_is_not_what_it_should_be(name: str, what: str, codes: Path) -> None:
    change_shard(codes, name, CHANGES[what][1])
    with pytest.raises(
        HartError, match=r"train-00001\.safetensors: damaged \(.*\): delete it and encode again"
    ) as error:
        read(codes)
    assert "\n" not in str(error.value)


def test_what_needs_images_is_told_that_the_set_has_none(codes: Path) -> None:
    shards = [*codes.glob("*.safetensors")]
    for lacking in ([], [codes / "train.json"], shards):  # unfinished, or with its shards elsewhere
        kept = {file: file.read_bytes() for file in lacking}
        for file in lacking:
            file.unlink()
        for split in ("train", "val"):
            with pytest.raises(HartError, match="codes: an encoded set, which holds codes and no images: give the"):
                open_source(codes, split)
        assert is_encoded_set(codes) and encoded_splits(codes, "train") == {"train"}
        assert "val" not in encoded_splits(codes, "val")
        for file, content in kept.items():
            file.write_bytes(content)
    weights = codes / "weights"
    weights.mkdir()
    (weights / "model-00001-of-00002.safetensors").touch()
    assert not is_encoded_set(weights) and not encoded_splits(weights, "model")
    with pytest.raises(HartError, match="no image could be read"):
        open_source(weights)


def changed_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / "train.json").read_text())
    change(index)
    (folder / "train.json").write_text(json.dumps(index))


INDEXES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a shard above": (lambda index: index["shards"][0].update(file="../train-00000.safetensors"), "not the name of "),
    "a shard in a stream": (lambda index: index["shards"][0].update(file="ab:c.safetensors"), "not the name "),
    "a shard of no name": (lambda index: index["shards"][0].update(file=None), "shards.0.file "),
    "a shard that is not there": (lambda index: index["shards"][0].update(file="a.safetensors"), "missing shards"),
    "no number of images": (lambda index: index["shards"][0].update(images="3"), "shards.0.images "),
    "another number of images": (lambda index: index["shards"][1].update(images=2), "damaged .3 images"),
    "no shards": (lambda index: index.update(shards=[]), "no images"),
    "another format": (lambda index: index.update(format=1), "format 1, this version reads 4: encode"),
    "no settings": (lambda index: index.pop("settings"), "settings Field required"),
    "no scales": (lambda index: index["settings"].pop("scales"), "settings.scales Field required"),
    "scales without end": (lambda index: index["settings"].update(scales=[10**9]), "settings.scales.0 "),
    "another text width": (lambda index: index["settings"].update(text_width=10**12), "settings.text_width"),
    "another tokenizer": (lambda index: index["settings"].update(tokenizer="x"), "made with other settings"),
}


@pytest.mark.parametrize(("change", "message"), INDEXES.values(), ids=INDEXES)
def test_an_index_that_says_what_cannot_be(change: Callable[[Any], Any], message: str, codes: Path) -> None:
    changed_index(codes, change)
    with pytest.raises(HartError, match=message) as error:
        read(codes)
    assert "\n" not in str(error.value) and str(codes) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"format": 4}'])
def test_an_index_that_is_none(content: bytes, codes: Path) -> None:
    (codes / "train.json").write_bytes(content)
    assert encoded_splits(codes, "train") == {"train"}
    with pytest.raises(HartError, match=r"train\.json"):
        read(codes)


def test_a_shard_of_another_set_is_not_mixed_in(codes: Path, whole: Path) -> None:
    with safe_open(codes / "train-00001.safetensors", framework="pt") as opened:
        facts = json.loads(opened.metadata()["hart"])
    save_file(load_file(codes / "train-00001.safetensors"), codes / "train-00001.safetensors", {
        "hart": json.dumps(facts | {"stamp": "of another"})
    })  # fmt: skip
    with pytest.raises(HartError, match="made with other settings than the index says"):
        EncodedSet(codes)


def test_what_is_damaged_at_random_is_read_or_refused(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for number in range(12):
        for name in ("train.json", "train-00000.safetensors"):
            copy = Path(shutil.copytree(whole, tmp_path / f"{number}-{name}"))
            damage_file(copy / name, rng)
            with suppress(HartError):
                read(copy)
