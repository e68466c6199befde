"""Which images a suite measures: the same ones every time, damaged ones counted, too many of them an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart.data.opening import open_source
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.evaluation.image_sets import ImageSet
from image_files import encoded_image, write_captioned_folder, write_numbered_shards, write_tar


def numbers(images: ImageSet, batch: int = 4) -> list[int]:
    """Which images came, by their red."""
    return [int(pixels[0, 4, 4]) for part, _ in images.batches(batch) for pixels in part]


def test_a_limit_takes_a_fixed_random_part_in_order(tmp_path: Path) -> None:
    write_captioned_folder(tmp_path, 30)
    source = open_source(tmp_path)
    some = ImageSet(source, ImageTransform(8), limit=10, seed=1)
    first = numbers(some)
    assert first == sorted(first) and len(set(first)) == 10 and first != list(range(10))
    assert numbers(some, batch=3) == first
    assert numbers(ImageSet(source, ImageTransform(8), limit=10, seed=2)) != first
    assert numbers(ImageSet(source, ImageTransform(8), limit=99)) == list(range(30))
    assert some.total == 10 and ImageSet(source, ImageTransform(8)).total == 30


def test_a_stream_gives_its_first_images(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=2, each=3)
    stream = open_source(tmp_path, kind="stream")
    assert numbers(ImageSet(stream, ImageTransform(8), limit=4)) == [0, 1, 2, 3]
    assert numbers(ImageSet(stream, ImageTransform(8))) == [0, 1, 2, 3, 4, 5]


def test_damaged_images_are_counted_and_many_are_an_error(tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "one", 30, damaged=(3,))
    images = ImageSet(open_source(tmp_path / "one"), ImageTransform(8))
    assert 3 not in numbers(images) and len(images.damaged) == 1
    write_captioned_folder(tmp_path / "many", 10, damaged=(3, 4))
    with pytest.raises(HartError, match="images are damaged, 2 of 10"):
        numbers(ImageSet(open_source(tmp_path / "many"), ImageTransform(8)))


def test_damage_of_a_short_stream_is_told_as_it_is(tmp_path: Path) -> None:
    """It is judged as if there were 200 images, and counted as there are."""
    damaged = {f"{number}.png": b"no image" for number in range(11)}
    for count, files in ((10, dict(list(damaged.items())[:10])), (11, damaged)):
        write_tar(tmp_path / f"{count}.tar", files | {"red.png": encoded_image("red")})
    some = ImageSet(open_source(tmp_path / "10.tar", kind="stream"), ImageTransform(8))
    assert sum(len(pixels) for pixels, _ in some.batches(4)) == 1 and len(some.damaged) == 10
    many = ImageSet(open_source(tmp_path / "11.tar", kind="stream"), ImageTransform(8))
    with pytest.raises(HartError, match="more than 5% of the images are damaged, 11 of 12"):
        list(many.batches(4))


def test_records_that_are_damaged_before_any_image_is_read_count_too(tmp_path: Path) -> None:
    write_captioned_folder(tmp_path, 30)
    lines = [json.dumps({"file_name": f"train/{number:04d}.png"}) for number in range(30)]
    (tmp_path / "set.jsonl").write_text("\n".join([*lines, "no JSON"]))
    images = ImageSet(open_source(tmp_path / "set.jsonl", "all"), ImageTransform(8))
    assert len(numbers(images)) == 30 and len(images.damaged) == 1
