"""Batches by step: the same whatever the ranks and workers, after a resume, and around damaged files."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hart.data.loader import ImageBatch, ImageLoader, lane_count
from hart.data.opening import open_source
from hart.data.order import SampleOrder
from hart.data.readers.tar import TarStream
from hart.data.samples import Damage, Sample
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from image_files import encoded_image, numbered, write_captioned_folder, write_numbered_shards
from set_formats import Entry, every_format, open_written

RANDOM = ImageTransform(4, crop="random", shorter_side=1.5, flip=0.5)
PLAIN = ImageTransform(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "folder"
    write_captioned_folder(path, 24)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    write_numbered_shards(path, shards=5, each=6)
    return path


def load(path: Path, kind: Any = None, **changes: Any) -> ImageLoader:
    settings: dict[str, Any] = {"batch_size": 8, "seed": 3, "condition": "caption", "shuffle_buffer": 16} | changes
    return ImageLoader(open_source(path, kind=kind), settings.pop("transform", RANDOM), **settings)


def numbers(batch: ImageBatch) -> list[int]:
    """Which images of `numbered` are in a batch."""
    return batch.images[:, 0, 0, 0].tolist()


def assert_same(a: ImageBatch, b: ImageBatch) -> None:
    assert torch.equal(a.images, b.images)
    assert (a.captions, a.keys) == (b.captions, b.keys)


def test_a_batch_holds_images_and_one_of_the_captions_of_each(folder: Path) -> None:
    loader = load(folder, transform=PLAIN)
    batch = loader.batch(0)
    assert batch.images.shape == (8, 3, 4, 4) and batch.images.dtype == torch.uint8
    assert batch.signed().min() >= -1 and batch.signed().max() <= 1 and batch.signed().dtype == torch.float32
    assert numbers(batch) == SampleOrder(torch.ones(24), 3).batch(0, 8).tolist()
    seen = {caption.split()[0] for step in range(3) for caption in loader.batch(step).captions}
    assert seen == {"first", "second"}
    for caption, number in zip(batch.captions, numbers(batch), strict=True):
        assert caption.endswith(f"of {number}")
    assert batch.labels is None


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_ranks_and_workers_change_nothing(folder: Path, shards: Path, kind: str) -> None:
    path = folder if kind == "folder" else shards
    alone = load(path, kind)
    whole = [alone.batch(step) for step in range(5)]
    for world, workers in ((2, 0), (1, 2), (2, 2)):
        ranks = [load(path, kind, rank=rank, world=world, workers=workers) for rank in range(world)]
        for step in range(3):
            parts = [rank.batch(step) for rank in ranks]
            assert torch.equal(torch.cat([part.images for part in parts]), whole[step].images)
            assert sum((part.captions for part in parts), ()) == whole[step].captions
            assert sum((part.keys for part in parts), ()) == whole[step].keys


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_a_resumed_run_sees_what_the_unbroken_one_saw(folder: Path, shards: Path, kind: str) -> None:
    path = folder if kind == "folder" else shards
    unbroken = load(path, kind)
    batches = [unbroken.batch(step) for step in range(16)]
    for first in (1, 7, 14):
        resumed = load(path, kind)
        for step in range(first, first + 2):
            assert_same(resumed.batch(step), batches[step])
    assert_same(unbroken.batch(2), batches[2])


def test_every_image_comes_once_an_epoch(folder: Path, shards: Path) -> None:
    rows, stream = load(folder, transform=PLAIN), load(shards, "stream", transform=PLAIN, batch_size=5)
    assert sorted(number for step in range(3) for number in numbers(rows.batch(step))) == list(range(24))
    sampled = [number for step in range(12) for number in numbers(stream.batch(step))]
    orders = [sampled[:30], sampled[30:]]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(30))
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_crops_flips_and_captions_differ_between_epochs_and_seeds(folder: Path) -> None:
    one, other = load(folder), load(folder, seed=4)
    assert one.batch(0).keys != other.batch(0).keys
    whole = load(folder, batch_size=24)
    captions = [dict(zip(whole.batch(step).keys, whole.batch(step).captions, strict=True)) for step in range(2)]
    assert captions[0].keys() == captions[1].keys() and captions[0] != captions[1]


def test_an_image_whose_caption_says_left_or_right_is_not_mirrored(tmp_path: Path) -> None:
    captions = ("a ball", "a ball on its LEFT", "left-hand traffic", "a screw, counterclockwise")
    pixels = Image.new("L", (4, 4))
    pixels.paste(255, (0, 0, 2, 4))
    for number, caption in enumerate(captions):
        pixels.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    batch = load(tmp_path, batch_size=4, transform=ImageTransform(4, flip=1.0)).batch(0)
    bright_left = {caption: bool(image[0, 0, 0]) for caption, image in zip(batch.captions, batch.images, strict=True)}
    assert bright_left == dict(zip(captions, (False, True, True, True), strict=True))


def test_microbatches_are_cut_from_the_rows_of_the_rank(folder: Path) -> None:
    loader = load(folder, rank=1, world=2)
    whole = load(folder).batch(4)
    assert_same(loader.rows(4, slice(4, 6)), whole.rows(slice(4, 6)))
    assert_same(loader.rows(4, slice(6, 8)), whole.rows(slice(6, 8)))
    with pytest.raises(AssertionError, match="rows of another process"):
        loader.rows(4, slice(2, 6))


def test_labels_of_classes(tmp_path: Path) -> None:
    for name, colour in {"ant": "red", "bee": "blue"}.items():
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "train" / name / f"{number}.png").write_bytes(encoded_image(colour))
    batch = load(tmp_path, condition="label").batch(0)
    assert batch.labels is not None and batch.labels.dtype == torch.int64
    assert [int(label) for label in batch.labels] == [int("bee" in key) for key in batch.keys]
    with pytest.raises(HartError, match="no caption"):
        load(tmp_path).batch(0)


# --- damage


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_damaged_images_are_replaced_counted_and_do_not_depend_on_processes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "set"
    if kind == "folder":
        write_captioned_folder(path, 24, damaged=(3, 17))
    else:
        path.mkdir()
        write_numbered_shards(path, shards=4, each=6, damaged=(3, 17))
    loader = load(path, kind, max_damaged=0.1)
    batches = [loader.batch(step) for step in range(6)]
    assert all(len(batch) == 8 for batch in batches)
    assert {damage.key.removesuffix(".png")[-4:] for damage in loader.damaged} == {"0003", "0017"}
    assert all("the image cannot be decoded" in damage.reason for damage in loader.damaged)
    resumed = load(path, kind, max_damaged=0.1, workers=2)
    assert_same(resumed.batch(4), batches[4])
    assert_same(resumed.batch(5), batches[5])


def test_too_much_damage_is_an_error_with_reasons(tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 24, damaged=(3, 17))
    loader = load(tmp_path / "set", workers=1, batch_size=24)
    with pytest.raises(HartError, match=r"more than 5% of the images are damaged, 2 of 24 \(.*png: the image"):
        loader.batch(0)


def test_a_stream_of_nothing_but_damage_ends(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=2, each=3, damaged=tuple(range(6)))
    with pytest.raises(HartError, match=r"50 images in a row are damaged"):
        load(tmp_path, "stream").batch(0)


def test_a_stream_holds_no_image_after_its_turn(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Sample | Damage]] = []
    read = TarStream.read_unit

    def watched(stream: TarStream, unit: str) -> Iterator[Sample | Damage]:
        for sample in read(stream, unit):
            held.append(weakref.ref(sample))
            yield sample

    monkeypatch.setattr(TarStream, "read_unit", watched)
    loader = load(shards, "stream", batch_size=1, shuffle_buffer=1)
    for step in range(30):
        loader.batch(step)
        assert sum(sample() is not None for sample in held) <= 4


def test_a_stream_without_images_says_why(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(HartError, match=r"no images in it \(.*train-0\.tar: the shard cannot be read to its end"):
        load(tmp_path, "stream").batch(0)


def test_a_set_that_vanishes_is_said_with_each_name_once(tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 4)
    loader = load(tmp_path / "set")
    for file in (tmp_path / "set").rglob("*.png"):
        file.unlink()
    with pytest.raises(HartError, match=r"50 images in a row are damaged, .*: no such file; fix the set") as error:
        loader.batch(0)
    assert str(error.value).count(".png") == 1


def test_a_shard_that_vanishes_is_said_by_name(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=2, each=3)
    for workers in (0, 2):
        loader = load(tmp_path, "stream", workers=workers)
        hidden = (tmp_path / "train-0001.tar").rename(tmp_path / "gone")
        with pytest.raises(HartError, match=r"train-0001.tar: no such file"):
            loader.batch(0)
        hidden.rename(tmp_path / "train-0001.tar")


# --- numbers that do not fit


def test_lanes_follow_from_batch_and_shards_alone() -> None:
    cases = ((1, 8), (5, 8), (100, 256), (100, 96), (64, 7))
    assert [lane_count([1] * units, batch) for units, batch in cases] == [1, 4, 64, 48, 7]
    for units, batch in product(range(1, 20), range(1, 20)):
        assert batch % (lanes := lane_count([9] * units, batch)) == 0 and lanes <= units
    # the images of a small unit would come much more often than others
    assert [lane_count(sizes, 4) for sizes in ([9, 9, 9, 2], [9, 9, 2], [9, 2])] == [2, 2, 1]


def test_numbers_that_do_not_fit_are_refused(folder: Path, shards: Path) -> None:
    with pytest.raises(HartError, match="batch_size 8 cannot be shared by 3"):
        load(folder, world=3)
    for name, value in (("batch_size", 0), ("seed", -1), ("seed", None), ("workers", -1), ("world", 0), ("rank", 1)):
        with pytest.raises(HartError, match=f"{name} {value}: give a whole number"):
            load(folder, **{name: value})
    with pytest.raises(HartError, match="condition 'text': give one of none, caption, label"):
        load(folder, condition="text")
    with pytest.raises(HartError, match="4 lanes, which 8 processes cannot share"):
        load(shards, "stream", world=8)
    with pytest.raises(HartError, match="at most 2 workers"):
        load(shards, "stream", world=2, workers=3)


@every_format
def test_systems_that_cannot_fork_are_sent_the_set(form: str, tmp_path: Path) -> None:
    entries = [Entry(str(number), numbered(number), {"caption": f"of {number}"}) for number in range(8)]
    source = open_written(form, tmp_path, entries)
    loader = ImageLoader(source, RANDOM, batch_size=4, seed=0, condition="caption")
    assert_same(pickle.loads(pickle.dumps(loader)).batch(1), loader.batch(1))


def test_the_global_generator_is_left_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load(folder).batch(0)
    assert torch.equal(before, torch.get_rng_state())
