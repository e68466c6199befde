"""Every format of a data set through one interface, named or told from the path."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from hart.data.images import FORMATS as IMAGE_FORMATS
from hart.data.images import SUFFIXES, decode_image
from hart.data.kinds import Kind
from hart.data.notes import Columns
from hart.data.opening import FORMATS, detect_kind, open_source
from hart.data.samples import Damage, DamagedSample, Sample
from hart.data.sources import Stream
from hart.errors import HartError
from image_files import encoded_image, numbered, write_numbered_shards, write_tar
from set_formats import captions, rows, samples


def write_lines(path: Path, records: Sequence[Any]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def write_images(place: Path, *folders: str) -> None:
    """A red image in each folder."""
    for folder in folders:
        (place / folder).mkdir(parents=True)
        (place / folder / "x.png").write_bytes(encoded_image("red"))


# --- folders


def test_a_folder_of_images_with_captions_beside_them(tmp_path: Path) -> None:
    (tmp_path / "train" / "deep").mkdir(parents=True)
    (tmp_path / "train" / "a.png").write_bytes(encoded_image("red"))
    (tmp_path / "train" / "a.txt").write_text("red\n a red square \n\n")
    (tmp_path / "train" / "deep" / "b.JPG").write_bytes(encoded_image("blue", kind="JPEG"))
    (tmp_path / "train" / "deep" / "b.json").write_text('{"caption": "blue", "weight": 2.5, "by": "me"}')
    (tmp_path / "train" / ".hidden.png").write_bytes(encoded_image("red"))
    assert detect_kind(str(tmp_path)) == "folder"
    source = rows(open_source(tmp_path))
    assert captions(source) == [("red", "a red square"), ("blue",)]
    assert source.weights.tolist() == [1.0, 2.5]
    assert source.read(1).record["by"] == "me"
    (tmp_path / "train" / "c.png").write_bytes(encoded_image("blue"))
    assert len(rows(open_source(tmp_path))) == 3, "nothing is remembered from the last time"


def test_a_caption_in_two_files_counts_once_and_one_repeated_in_a_list_as_often(tmp_path: Path) -> None:
    record = b'{"captions": ["a cat", "a cat", "a dog"]}'
    write_tar(tmp_path / "train-0.tar", {"a.png": encoded_image("red"), "a.json": record, "a.txt": b"a cat\na bird"})
    assert captions(open_source(tmp_path)) == [("a cat", "a cat", "a dog", "a bird")]
    record = b'{"caption": "a cat\\non a wall"}'
    write_tar(tmp_path / "train-0.tar", {"a.png": encoded_image("red"), "a.json": record, "a.txt": b"a cat\non a wall"})
    assert captions(open_source(tmp_path)) == [("a cat\non a wall",)], "and no half of it"


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_images_of_every_format_that_can_be_decoded_are_found_by_their_names(kind: str, tmp_path: Path) -> None:
    Image.init()
    names = {suffix[1:] for suffix, form in Image.registered_extensions().items() if form == kind}
    content = encoded_image("red", kind=kind)
    assert not names.isdisjoint(SUFFIXES)
    for name in names & SUFFIXES:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"a.{name.upper()}").write_bytes(content)
        (tmp_path / name / "a.txt").write_text("a cat")
        write_tar(tmp_path / f"{name}.tar", {f"a.{name}": content, "a.txt": b"a cat"})
        for path in (tmp_path / name, tmp_path / f"{name}.tar"):
            (sample,) = samples(open_source(path, "all"))
            assert sample.captions == ("a cat",)
            assert decode_image(sample.image).format == kind


def test_class_folders_are_numbered_in_the_order_of_their_names_over_all_splits(tmp_path: Path) -> None:
    (tmp_path / "train" / "__MACOSX").mkdir(parents=True)  # of an archive: it holds hidden files alone
    write_images(tmp_path, "train/cat", "train/ant", "val/cat", "validation-notes", "test/bee", "test/cat")
    assert detect_kind(str(tmp_path)) == "classes"
    train, val = (rows(open_source(tmp_path, split)) for split in ("train", "val"))
    assert train.classes == val.classes == ("ant", "cat")
    assert [sample.label for sample in samples(train)] == [0, 1]
    assert [sample.label for sample in samples(val)] == [1]
    assert captions(val) == [()]
    test = rows(open_source(tmp_path, "test"))
    assert test.classes == ("ant", "cat", "bee") and test.labels.tolist() == [2, 1], "no class of training is shifted"


def test_class_folders_without_split_folders_are_divided_by_name(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(40):
            (tmp_path / name / f"{number}.png").write_bytes(b"unread")
    train, val = (rows(open_source(tmp_path, split)) for split in ("train", "val"))
    assert len(train) + len(val) == 80 and len(train) > len(val) > 0
    assert train.classes == val.classes == ("ant", "bee")
    whole = rows(open_source(tmp_path, "all"))
    assert len(whole) == 80 and whole.classes == train.classes


def test_split_folders_in_capitals_are_splits_where_there_are_two(tmp_path: Path) -> None:
    write_images(tmp_path, "Train/cat", "VAL/cat", "Bus", "one/Train", "one/Car")
    assert [len(rows(open_source(tmp_path, split))) for split in ("train", "val")] == [1, 1]
    assert rows(open_source(tmp_path)).classes == ("cat",)
    assert rows(open_source(tmp_path / "one")).classes == ("Car", "Train")
    with pytest.raises(HartError, match="divided into folders: name one as the split: Train, VAL"):
        open_source(tmp_path, "all")


def test_a_class_that_is_called_as_a_split_is_asked_about(tmp_path: Path) -> None:
    write_images(tmp_path, "bus", "car", "train")
    with pytest.raises(HartError, match="train may be a split, or a class like the folders beside it: give "):
        open_source(tmp_path)
    source = rows(open_source(tmp_path, None, kind="classes"))
    assert source.classes == ("bus", "car", "train") and source.labels.tolist() == [0, 1, 2]
    # with captions, or classes inside, it is a split
    (tmp_path / "train" / "x.txt").write_text("red")
    assert captions(open_source(tmp_path)) == [("red",)]
    (tmp_path / "train" / "x.txt").rename(tmp_path / "x.md")
    (tmp_path / "train" / "x.png").rename(tmp_path / "bus" / "y.png")
    (tmp_path / "bus").rename(tmp_path / "train" / "bus")
    assert rows(open_source(tmp_path)).classes == ("bus",)


@pytest.mark.parametrize("other", ["val", "test"])
def test_two_splits_are_splits_whatever_is_beside_them(other: str, tmp_path: Path) -> None:
    write_images(tmp_path, "train", other, "unlabelled")
    assert len(rows(open_source(tmp_path))) == 1


def test_the_folders_of_coco_are_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "train2017", "val2017", "annotations")
    with pytest.raises(HartError, match="train2017 and val2017 look like splits: give one of them as the data"):
        open_source(tmp_path)
    assert len(rows(open_source(tmp_path / "train2017"))) == 1
    assert len(rows(open_source(tmp_path, None, kind="classes"))) == 3


# --- JSON lines


def test_json_lines_with_captions_labels_and_weights(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(numbered(number))
    write_lines(
        tmp_path / "train.jsonl",
        [
            {"image": "images/0.png", "caption": "zero", "label": "odd"},
            {"image": str(tmp_path / "images/1.png"), "caption": ["one", "1"], "label": "even", "weight": 3},
            {"image": "images/2.png", "label": "odd", "weight": None},
            {"image": "images/2.png"},
        ],
    )
    for path in (tmp_path, tmp_path / "train.jsonl"):
        source = rows(open_source(path))
        assert captions(source) == [("zero",), ("one", "1"), (), ()]
        assert source.classes == ("even", "odd")
        assert [sample.label for sample in samples(source)] == [1, 0, 1, None]
        assert source.weights.tolist() == [1, 3, 1, 1]
        assert samples(source)[2].image == numbered(2)


def test_the_metadata_of_hugging_faces_image_folder_lies_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split, text in (("train", "a cat"), ("validation", "a dog")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.png").write_bytes(encoded_image("red"))
        write_lines(tmp_path / split / "metadata.jsonl", [{"file_name": "0.png", "text": text}])
    assert detect_kind(str(tmp_path)) == "jsonl"
    assert captions(open_source(tmp_path)) == [("a cat",)]
    assert captions(open_source(tmp_path, "val")) == [("a dog",)]
    assert captions(open_source(tmp_path, None)) == [("a cat",)]
    (tmp_path / "train" / "0.txt").write_text("a note")
    assert captions(open_source(tmp_path)) == [("a note",)], "captions beside the images come first"


def test_damaged_lines_are_counted_and_damaged_images_found_when_read(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    write_lines(path, [{"file_name": "gone.png", "text": "gone"}, {"file_name": "https://x/y.png", "text": "far"}])
    with path.open("a") as file:
        file.write('{"file_name": \n[1]\n')
    source = rows(open_source(path))
    assert len(source) == 2
    assert [damage.key for damage in source.damaged] == [f"{path}:3", f"{path}:4"]
    with pytest.raises(DamagedSample, match=r"gone.png: no such file"):
        source.read(0)
    with pytest.raises(DamagedSample, match="web address"):
        source.read(1)


def test_one_jsonl_in_a_folder_is_divided_by_the_name_of_the_image(tmp_path: Path) -> None:
    records = [{"file_name": f"{n}.png", "text": "x", "label": f"c{n}"} for n in range(80)]
    write_lines(tmp_path / "metadata.jsonl", records)
    train, val = (rows(open_source(tmp_path, split)) for split in ("train", "val"))
    assert len(train) + len(val) == 80 and len(train) > len(val) > 0
    assert train.classes == val.classes
    assert len(rows(open_source(tmp_path, "all"))) == 80
    with pytest.raises(HartError, match="ask for train, val or all"):
        open_source(tmp_path, "test")
    write_lines(tmp_path / "other.jsonl", [])
    with pytest.raises(HartError, match=r"looked for train.jsonl or a single .jsonl"):
        open_source(tmp_path)


def test_fields_with_unusual_names_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded_image("red"))
    path = tmp_path / "set.jsonl"
    write_lines(path, [{"datei": "a.png", "worte": "rot"}])
    with pytest.raises(HartError, match=r"no field holds the image.*datei, worte"):
        open_source(path)
    with pytest.raises(HartError, match=r"no field 'bild'"):
        open_source(path, columns=Columns(image="bild"))
    assert captions(open_source(path, columns=Columns("datei", "worte"))) == [("rot",)]
    with pytest.raises(DamagedSample, match="no caption in the fields datei, worte"):
        open_source(path, columns=Columns("datei")).read(0).require("caption")
    with pytest.raises(DamagedSample, match=r"^no caption in the fields a b, c{100,200}\.\.\.$"):
        Sample("", b"", record={"a\nb": 0, "c" * 999: 0}).require("caption")


# --- tar shards


@pytest.mark.parametrize("kind", ["folder", "classes", "shards", "stream"])
def test_columns_are_refused_where_there_are_none(kind: Any, tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=1, each=2)
    with pytest.raises(HartError, match=f"is read as {kind}, without columns: leave out those that are named"):
        open_source(tmp_path, kind=kind, columns=Columns(caption="words"))


def test_shards_at_random_and_as_a_stream_hold_the_same(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=3, each=2)
    expected = [(str(number),) for number in range(6)]
    pattern = str(tmp_path / "train-{0000..0002}.tar")
    for path in (str(tmp_path), pattern, str(tmp_path / "train-*.tar")):
        assert detect_kind(path) == "shards"
        assert captions(open_source(path)) == expected
        assert captions(open_source(path, kind="stream")) == expected
    assert [sample.image for sample in samples(open_source(pattern))] == [numbered(number) for number in range(6)]
    stream = open_source(pattern, kind="stream")
    assert [sample.image for sample in samples(stream)] == [numbered(number) for number in range(6)]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=2, each=1)
    (tmp_path / "train-0000.tar").unlink()
    for kind in ("shards", "stream"):
        with pytest.raises(HartError, match=r"missing shards: .*train-0000.tar.*train-0002.tar"):
            open_source(str(tmp_path / "train-{0000..0002}.tar"), kind=kind)
    with pytest.raises(HartError, match="data is empty: give a folder"):
        open_source("")
    with pytest.raises(HartError, match="no file matches"):
        open_source(str(tmp_path / "val-*.tar"))


def test_shards_from_urls_are_streamed(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=1, each=2)
    address = (tmp_path / "train-0000.tar").as_uri()
    assert detect_kind("https://example.org/a/train-{0..3}.tar") == "stream"
    assert detect_kind("https://example.org/train-0.tar?key=x") == "stream"
    for url in (address, f"pipe:cat '{tmp_path / 'train-0000.tar'}'"):
        assert captions(open_source(url, kind="stream")) == [("0",), ("1",)]


def test_a_download_that_fails_is_an_error_and_no_damage(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=1, each=2)
    shard = tmp_path / "train-0000.tar"
    for command in ("exit 22", f"cat '{shard}'; exit 18", f"head -c 2000 '{shard}'; exit 18"):
        with pytest.raises(HartError, match=r"did not arrive: .* status (22|18)"):
            samples(open_source(f"pipe:{command}"))
    with pytest.raises(HartError, match="not on this machine"):
        open_source("https://example.org/train-0.tar", kind="shards")
    with pytest.raises(HartError, match=r"shard gopher://example.org/train-0.tar cannot be opened"):
        samples(open_source("gopher://example.org/train-0.tar"))


@pytest.mark.parametrize("kept", [512 + 512 + 512 + 60, 512 + 512], ids=["inside an image", "between two"])
def test_a_shard_that_breaks_off_is_one_damage_and_its_beginning_good(kept: int, tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.png": encoded_image("red"), "b.png": encoded_image("red", (64, 64))})
    whole = (tmp_path / "train-0.tar").read_bytes()
    (tmp_path / "train-0.tar").write_bytes(whole[:kept])
    stream = open_source(tmp_path, kind="stream")
    assert isinstance(stream, Stream)
    good, broken = stream.read_unit(0)
    assert isinstance(good, Sample) and isinstance(broken, Damage)
    assert "cannot be read to its end" in broken.reason
    source = rows(open_source(tmp_path))
    assert len(source) == len(source.damaged) == 1


def test_weights_need_random_access(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.png": encoded_image("red"), "a.json": b'{"weight": 2}'})
    assert rows(open_source(tmp_path)).weights.tolist() == [2]
    with pytest.raises(HartError, match="kind 'shards'"):
        samples(open_source(tmp_path, kind="stream"))


# --- what is what


def test_every_kind_has_its_format() -> None:
    assert set(FORMATS) == set(get_args(Kind))


def test_the_home_folder_may_be_written_as_a_person_does(home: Path) -> None:
    write_numbered_shards(home, shards=2, each=1)
    for address in ("~", "~/train-0000.tar", "~/train-{0000..0001}.tar", "~/train-*.tar"):
        assert captions(open_source(address))[0] == ("0",)
        assert len(captions(open_source(address, None))) == len(captions(open_source(address)))


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(HartError, match=r"looked for \*\.tar .*parquet.*jsonl.*class"):
        detect_kind(str(tmp_path))
    write_tar(tmp_path / "train-0.tar", {"a.png": encoded_image("red")})
    write_lines(tmp_path / "train.jsonl", [{"image": "a.png"}])
    with pytest.raises(HartError, match="read as shards and as jsonl: name one"):
        open_source(tmp_path)
    assert len(rows(open_source(tmp_path, kind="shards"))) == 1
    (tmp_path / "notes.csv").write_text("")
    for path, message in {
        tmp_path / "none": "does not exist",
        tmp_path / "notes.csv": "does not tell the format",
        "https://example.org/set.zip": "only tar shards",
    }.items():
        with pytest.raises(HartError, match=message):
            open_source(path)
    for nothing in (None, 3, b"set"):
        with pytest.raises(HartError, match="give a path or an address"):
            open_source(nothing)  # type: ignore[arg-type]
    for split in ("", 3):
        with pytest.raises(HartError, match=f"split is {split!r}: give train, val"):
            open_source(tmp_path, split)  # type: ignore[arg-type]
    with pytest.raises(HartError, match=r"give one of .*folder, classes"):
        open_source(tmp_path, kind="imagenet")  # type: ignore[arg-type]


def test_a_package_that_is_not_there_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(HartError, match=r"hart-image\[huggingface\]"):
        open_source("hf:someone/something")
