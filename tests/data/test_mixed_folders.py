"""A folder that holds loose images and files of another format: neither is taken for the set in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hart.data.opening import open_source
from hart.errors import HartError
from image_files import captioned, class_folders, encoded_image, write_numbered_shards, write_tar
from set_formats import captions


def write_beside(folder: Path, kind: str, split: str) -> None:
    """A file of a format, in or beside a set of loose images."""
    if kind == "shards":
        write_tar(folder / f"{split}-0000.tar", {"x.png": encoded_image("blue"), "x.txt": b"of the tar"})
    elif kind == "jsonl":
        (folder / f"{split}.jsonl").write_text('{"step": 1}\n')
    else:
        pq.write_table(
            pa.table({"image": [encoded_image("blue")], "text": ["of the table"]}), folder / f"{split}.parquet"
        )


@pytest.mark.parametrize("kind", ["shards", "parquet", "jsonl"])
@pytest.mark.parametrize("split", ["train", "backup"])
def test_loose_images_beside_another_format_are_asked_about(kind: Any, split: str, tmp_path: Path) -> None:
    captioned(tmp_path / "set", 3)
    write_beside(tmp_path / "set", kind, split)
    with pytest.raises(HartError) as error:
        open_source(tmp_path / "set", None)
    said = str(error.value)
    assert f"holds both *.{'tar' if kind == 'shards' else kind} ({kind}) and images with captions" in said
    assert "(folder): name one as its kind (--kind, or reading.kind of a recipe)" in said
    assert captions(open_source(tmp_path / "set", "all", kind="folder")) == [(f"number {n}",) for n in range(3)]
    if kind != "jsonl" and split == "train":
        assert captions(open_source(tmp_path / "set", kind=kind)) == [
            ("of the tar" if kind == "shards" else "of the table",)
        ]


@pytest.mark.parametrize("place", ["", "train"])
def test_images_in_folders_beside_shards_are_asked_about(place: str, tmp_path: Path) -> None:
    class_folders(tmp_path / "classes" / place, 2)
    captioned(tmp_path / "captions" / (place or "part"), 2)
    for name, other in {"classes": "in a folder per class", "captions": "with captions beside them"}.items():
        write_beside(tmp_path / name, "shards", "train")
        with pytest.raises(HartError, match=rf"holds both \*\.tar \(shards\) and images {other} "):
            open_source(tmp_path / name)


def test_a_preview_beside_shards_and_images_that_lines_are_about_are_no_other_set(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_numbered_shards(tmp_path / "shards", shards=1, each=2)
    (tmp_path / "shards" / "sample.png").write_bytes(encoded_image("red"))
    (tmp_path / "shards" / "README.txt").write_text("of the set")
    captioned(tmp_path / "shards" / "assets", 2, bare=(0, 1))
    assert captions(open_source(tmp_path / "shards")) == [("0",), ("1",)]
    # Hugging Face's ImageFolder, and lines about images in folders
    for images, lines, prefix in (("flat", "flat/metadata", ""), ("deep/images", "deep/train", "images/")):
        captioned(tmp_path / images, 2)
        records = [{"file_name": f"{prefix}{number}.png", "text": f"line {number}"} for number in (0, 1)]
        (tmp_path / f"{lines}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
        assert captions(open_source((tmp_path / lines).parent, None)) == [("line 0",), ("line 1",)]
