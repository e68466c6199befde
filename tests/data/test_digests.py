"""A digest tells sets apart by their content, and by nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hart.data.digests import WHOLE_IMAGE, mark_bytes, mark_file
from hart.data.opening import open_source
from image_files import encoded_image, numbered, write_numbered_shards
from set_formats import WRITERS, Entry, every_format, open_written

SET = [Entry(f"{n}", numbered(n), {"caption": f"a {n}", "label": n}) for n in range(4)]
CHANGED = {
    "removed": SET[:3],
    "added": [*SET, Entry("4", numbered(4), {"caption": "a 4", "label": 4})],
    "image changed": [Entry("0", numbered(9), SET[0].record), *SET[1:]],
    "images swapped": [
        Entry("0", SET[1].image, SET[0].record),
        Entry("1", SET[0].image, SET[1].record),
        *SET[2:],
    ],
    "caption edited": [*SET[:3], Entry("3", SET[3].image, {"caption": "b 3", "label": 3})],
    "caption added": [*SET[:3], Entry("3", SET[3].image, {"caption": ["a 3", "three"], "label": 3})],
    "label edited": [*SET[:3], Entry("3", SET[3].image, {"caption": "a 3", "label": 2})],
}


@every_format
def test_a_digest_follows_images_and_what_is_said_about_them_and_no_place_or_time(form: str, tmp_path: Path) -> None:
    first = open_written(form, tmp_path / "here", SET).digest()
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for file in (tmp_path / "there").rglob("*"):
        os.utime(file, (1, 1))
    assert open_source(tmp_path / "there" / form, kind=WRITERS[form][1]).digest() == first
    others = {}
    for name, entries in CHANGED.items():
        if form in {"parquet", "huggingface"} and name == "caption added":
            continue  # a column has one type
        others[name] = open_written(form, tmp_path / name, entries).digest()
    assert len({first, *others.values()}) == 1 + len(others)
    assert all(len(digest) == 64 and int(digest, 16) for digest in others.values())


def test_class_folders_and_notes_of_several_files(tmp_path: Path) -> None:
    for name in ("ant/0", "bee/0"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.png").write_bytes(numbered(3))
    digests = [open_source(tmp_path, "all").digest()]
    (tmp_path / "bee").rename(tmp_path / "cat")
    digests.append(open_source(tmp_path, "all").digest())
    for note in ("an ant", "on ant"):
        (tmp_path / "ant" / "0.txt").write_text(note)
        digests.append(open_source(tmp_path, "all").digest())
    assert len(set(digests)) == 4
    (tmp_path / "ant").rename(tmp_path / "another")
    assert open_source(tmp_path, "all").digest() == digests[-1], "names say nothing about images"


@pytest.mark.parametrize("size", [WHOLE_IMAGE, 4 * WHOLE_IMAGE])
def test_the_mark_of_a_file_is_that_of_its_content(size: int, tmp_path: Path) -> None:
    content = bytearray(size)
    (tmp_path / "a").write_bytes(content)
    mark = mark_bytes(bytes(content))
    assert mark_file(tmp_path / "a") == mark
    assert mark_bytes(bytes(content) + b"\0") != mark
    for place in (0, size // 2, size - 1):
        content[place] = 1
        assert mark_bytes(bytes(content)) != mark
        content[place] = 0


def test_of_a_stream_from_elsewhere_the_addresses_count_and_not_their_passwords(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=1, each=2)
    one, same, other = (
        open_source(f"https://example.org/{name}", kind="stream").digest()
        for name in ("a.tar?key=1", "a.tar?key=2", "b.tar")
    )
    assert one == same != other


def test_images_beside_a_parquet_file_count(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    paths = pa.array(["0.png"])
    written = {
        "path": paths,
        "view": paths.cast(pa.string_view()),
        "dictionary": paths.dictionary_encode(),  # as pandas writes a column of categories
        "struct": [{"bytes": None, "path": "0.png"}],
    }
    for name, images in written.items():
        digests = []
        for colour in ("red", "blue"):
            (tmp_path / "0.png").write_bytes(encoded_image(colour))
            pq.write_table(pa.table({"image": images}), tmp_path / f"{name}.parquet")
            digests.append(open_source(tmp_path / f"{name}.parquet").digest())
        assert len(set(digests)) == 2


def test_what_cannot_be_read_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"image": "images/0.png"}\n{"image": "images/1.png"}')
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(numbered(0))
    sets = tmp_path / "set.jsonl", tmp_path / "images"
    before = [open_source(each, "all").digest() for each in sets]
    (tmp_path / "images" / "1.png").write_bytes(numbered(1))
    (tmp_path / "images" / "0.txt").write_bytes(b"caf\xe9")
    after = [open_source(each, "all").digest() for each in sets]
    assert before[0] != after[0] and before[1] != after[1]
