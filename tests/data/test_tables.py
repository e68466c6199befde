"""Sets in tables: Parquet files, and those of Hugging Face's library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hart.data.datasets import open_dataset, read_all
from hart.data.opening import open_source
from hart.data.sources import Stream
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from image_files import numbered, write_numbered_shards
from set_formats import captions, rows, samples

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=2)


def test_parquet_with_images_as_bytes_as_hugging_face_has_them_and_as_paths(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(numbered(0))
    for name, images in {
        "bytes": [numbered(0)] * 3,
        "struct": [{"bytes": numbered(0), "path": None}] * 3,
        "path": ["0.png"] * 3,
    }.items():
        write_parquet(tmp_path / f"{name}.parquet", {"image": images, "text": ["a", "b", "c"], "label": [5, 6, 7]})
        stream = open_source(tmp_path / f"{name}.parquet")
        assert isinstance(stream, Stream)
        assert len(stream.units) == 2
        assert captions(stream) == [("a",), ("b",), ("c",)]
        assert [sample.label for sample in samples(stream)] == [5, 6, 7]
        assert {sample.image for sample in samples(stream)} == {numbered(0)}


def test_parquet_files_of_a_split_and_their_faults(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        columns = {"image": [numbered(number)], "captions": [["x", "y"]]}
        write_parquet(tmp_path / "data" / f"train-0000{number}-of-00002.parquet", columns)
    assert captions(open_source(tmp_path)) == [("x", "y"), ("x", "y")]
    assert captions(open_source(str(tmp_path / "data" / "*.parquet"))) == [("x", "y"), ("x", "y")]
    with pytest.raises(HartError, match="none for the split 'val'"):
        open_source(tmp_path, "val")
    with pytest.raises(HartError, match="no such file"):
        open_source(str(tmp_path / "data" / "{train,test}-00000-of-00002.parquet"))
    bad = tmp_path / "data" / "train-00001-of-00002.parquet"
    write_parquet(bad, {"image": [b"x"], "words": ["x"]})
    with pytest.raises(HartError, match="its columns differ"):
        open_source(tmp_path)
    (tmp_path / "none").mkdir()
    write_parquet(tmp_path / "none" / "train.parquet", {"image": [], "text": []})
    with pytest.raises(HartError, match="it has no rows"):
        open_source(tmp_path / "none")
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(HartError, match="not a readable Parquet file"):
        open_source(tmp_path)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    return datasets


def test_hugging_face_set_saved_to_disk_with_class_names(tmp_path: Path, library: Any) -> None:
    features = library.Features(
        {"picture": library.Image(), "text": library.Value("string"), "label": library.ClassLabel(names=["b", "a"])}
    )
    images = [{"bytes": numbered(n), "path": None} for n in range(3)]
    columns = {"picture": images, "text": ["x", "y", "z"], "label": [0, 1, 0]}
    table = library.Dataset.from_dict(columns, features=features)
    library.DatasetDict({"train": table, "validation": table.select([2])}).save_to_disk(tmp_path / "set")
    train, val = (rows(open_source(tmp_path / "set", split)) for split in ("train", "val"))
    assert captions(train) == [("x",), ("y",), ("z",)]
    assert train.classes == ("b", "a")
    assert [sample.label for sample in samples(train)] == [0, 1, 0]
    assert [sample.image for sample in samples(val)] == [numbered(2)]
    with pytest.raises(HartError, match=r"no split 'test': it has train, validation"):
        open_source(tmp_path / "set", "test")
    with pytest.raises(HartError, match="hf: does not name a data set"):
        open_source("hf:")
    table.save_to_disk(tmp_path / "alone")
    assert len(rows(open_source(tmp_path / "alone"))) == len(rows(open_source(tmp_path / "alone", None))) == 3
    with pytest.raises(HartError, match=r"no split 'val': it has train"):
        open_source(tmp_path / "alone", "val")  # what was trained on is not held out too
    index = tmp_path / "set" / "train" / "state.json"
    (arrow,) = index.parent.glob("*.arrow")
    arrow.rename(tmp_path / "outside.arrow")
    index.write_text(index.read_text().replace(arrow.name, "../../outside.arrow"))
    with pytest.raises(HartError, match=r"state\.json: \.\./\.\./outside\.arrow is not the name of a file"):
        open_source(tmp_path / "set", "val")


def test_hugging_face_set_by_name(tmp_path: Path, library: Any) -> None:
    (tmp_path / "repository").mkdir()
    columns = {"image": [numbered(1), numbered(2)], "caption": ["x", "y"]}
    write_parquet(tmp_path / "repository" / "train.parquet", columns)
    source = rows(open_source(f"hf:{tmp_path / 'repository'}"))
    assert captions(source) == [("x",), ("y",)]
    assert source.read(1).image == numbered(2)
    with pytest.raises(HartError, match="cannot load it"):
        open_source(f"hf:{tmp_path / 'nowhere'}")


def test_a_hugging_face_set_without_the_hub(tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier download serves; nobody waits for the library's tries."""
    asked = list[Any]()

    def connect(host: str, port: int) -> None:
        raise OSError(-3, "Try again")

    monkeypatch.setattr("hart.hub._connect", connect)
    monkeypatch.setattr("hart.hub.PAUSES", (0.0,))
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", lambda *_, **options: asked.append(options))
    (tmp_path / "repository").mkdir()
    write_parquet(tmp_path / "repository" / "train.parquet", {"image": [numbered(1)], "caption": ["x"]})
    for name in ("someone/repository", "repository"):
        with pytest.raises(HartError, match=r"hf:.*repository: .*the Hugging Face hub cannot be reached \(Try again\)"):
            open_source(f"hf:{name}")
    library.load_dataset(str(tmp_path / "repository"))
    (tmp_path / "cache" / "repository").rename(tmp_path / "cache" / "someone___repository")
    assert captions(rows(open_source("hf:someone/repository"))) == [("x",)]
    assert not asked and not library.config.HF_HUB_OFFLINE, "of the library"


def test_a_stream_can_be_read_into_memory(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": [numbered(3), b"bad"], "text": ["a", "b"]})
    data = open_dataset(tmp_path / "a.parquet", "train", 4)
    assert data.texts[0] == ("a",)
    assert data.pixels[0][0, 0, 0] == 3
    assert (len(data), len(data.damaged)) == (1, 1)
    write_numbered_shards(tmp_path, shards=2, each=3)  # of which only the shards are counted
    data = read_all(open_source(tmp_path / "*.tar", kind="stream"), ImageTransform(4))
    assert data.pixels[:, 0, 0, 0].tolist() == list(range(6))
