"""Which images are held out: the promised share, always the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart.data.opening import open_source
from hart.data.splits import held_out
from hart.errors import HartError
from image_files import encoded_image
from set_formats import rows


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (9, 0), (10, 1), (29, 1), (30, 2), (120, 6), (999, 50)])
def test_a_small_set_keeps_the_share_exactly(count: int, expected: int) -> None:
    assert len(held_out(f"image {n}" for n in range(count))) == expected


def test_in_a_large_set_images_that_are_added_move_no_other() -> None:
    names = [f"image {n}" for n in range(4000)]
    before, after = held_out(names[:2000]), held_out(names)
    assert before == {name for name in after if name in set(names[:2000])}
    assert 0.04 < len(after) / 4000 < 0.06


def write(folder: Path, count: int, form: str) -> None:
    for n in range(count):
        place = folder / ("ant" if n % 2 else "bee") if form == "classes" else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n}.png").write_bytes(encoded_image("red"))
    if form == "jsonl":
        lines = [json.dumps({"image": f"{n}.png", "text": f"{n}"}) for n in range(count) for _ in range(2)]
        (folder / "set.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("form", ["folder", "classes", "jsonl"])
def test_train_and_val_are_the_set_and_what_is_held_out_is_said(form: str, tmp_path: Path) -> None:
    write(tmp_path, 30, form)
    lines = 2 if form == "jsonl" else 1
    train, val, every = (rows(open_source(tmp_path, split)) for split in ("train", "val", "all"))
    assert (len(train), len(val), len(every)) == (28 * lines, 2 * lines, 30 * lines)
    assert "2 more held out (5% by name; split 'all' takes them all)" in train.description
    assert len(rows(open_source(tmp_path, None))) == 30 * lines
    names = [{source.read(row).key for row in range(len(source))} for source in (train, val, every)]
    assert names[0] | names[1] == names[2]


@pytest.mark.parametrize("form", ["folder", "classes", "jsonl"])
def test_where_nothing_is_held_out_the_way_out_is_said(form: str, tmp_path: Path) -> None:
    write(tmp_path, 8, form)
    with pytest.raises(HartError, match=r"none of its .* images is held out.*ask for the split 'all'"):
        open_source(tmp_path, "val")
    with pytest.raises(HartError, match=r"has no f.*'?test.*: ask for train, val or all, or make it"):
        open_source(tmp_path, "test")
    assert "none held out" in open_source(tmp_path).description


def test_a_divided_set_has_no_whole(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train", 2, "folder")
    write(tmp_path / "lines", 2, "jsonl")
    (tmp_path / "lines" / "set.jsonl").rename(tmp_path / "lines" / "train.jsonl")
    for place in (tmp_path / "images", tmp_path / "lines"):
        assert open_source(place, None).description == open_source(place, "train").description


@pytest.mark.parametrize("form", ["folder", "classes"])
@pytest.mark.parametrize(("there", "asked"), [("validation", "train"), ("train", "test")])
def test_a_split_that_a_divided_set_lacks_is_not_taken_from_the_others(
    there: str, asked: str, form: str, tmp_path: Path
) -> None:
    write(tmp_path / there, 30, form)
    said = f"divided into folders and has none for '{asked}': make it, or name one as the split: {there}$"
    with pytest.raises(HartError, match=said):
        open_source(tmp_path, asked)
    assert len(rows(open_source(tmp_path, there))) == 30


def test_each_split_has_its_share_of_the_damage(tmp_path: Path) -> None:
    """All of it would be more than half of what is held out."""
    lines = [json.dumps({"image": f"{n}.png", "text": "a" if n % 20 else 5}) for n in range(1000)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    train, val, every = (rows(open_source(tmp_path, split, kind="jsonl")) for split in ("train", "val", "all"))
    assert {*train.damaged, *val.damaged} == {*every.damaged} and len(every.damaged) == 50
    assert len(train.damaged) + len(val.damaged) == 50 and len(val.damaged) < 10
