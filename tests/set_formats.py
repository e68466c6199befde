"""One and the same set of images in every format that is read: for tests that hold for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hart.data.opening import Kind, open_source
from hart.data.samples import Damage, Sample
from hart.data.sources import Source, Stream, iterate
from image_files import write_tar


@dataclass(frozen=True)
class Entry:
    """An image and what is said about it, as JSON has it: caption or captions, label."""

    name: str
    image: bytes
    record: Mapping[str, Any] = field(default_factory=dict)


def write_folder(folder: Path, entries: Sequence[Entry]) -> None:
    (folder / "train").mkdir(parents=True)
    for entry in entries:
        (folder / "train" / f"{entry.name}.png").write_bytes(entry.image)
        (folder / "train" / f"{entry.name}.json").write_text(json.dumps(entry.record))


def write_jsonl(folder: Path, entries: Sequence[Entry]) -> None:
    folder.mkdir(parents=True)
    for entry in entries:
        (folder / f"{entry.name}.png").write_bytes(entry.image)
    lines = [json.dumps({"image": f"{entry.name}.png", **entry.record}) for entry in entries]
    (folder / "train.jsonl").write_text("\n".join(lines))


def write_shard(folder: Path, entries: Sequence[Entry]) -> None:
    folder.mkdir(parents=True)
    members = {}
    for entry in entries:
        members[f"{entry.name}.png"] = entry.image
        members[f"{entry.name}.json"] = json.dumps(entry.record).encode()
    write_tar(folder / "train-0.tar", members)


def columns(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for entry in entries for name in entry.record))
    return {"image": [entry.image for entry in entries]} | {
        name: [entry.record.get(name) for entry in entries] for name in names
    }


def write_parquet(folder: Path, entries: Sequence[Entry]) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns(entries)), folder / "train.parquet", row_group_size=2)


def write_saved(folder: Path, entries: Sequence[Entry]) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns(entries))}).save_to_disk(folder)


WRITERS: dict[str, tuple[Callable[[Path, Sequence[Entry]], None], Kind]] = {
    "folder": (write_folder, "folder"),
    "jsonl": (write_jsonl, "jsonl"),
    "shards": (write_shard, "shards"),
    "stream": (write_shard, "stream"),
    "parquet": (write_parquet, "parquet"),
    "huggingface": (write_saved, "huggingface"),
}
"""Format -> what writes it, and the kind that it is read as."""
every_format = pytest.mark.parametrize("form", WRITERS)


def open_written(form: str, folder: Path, entries: Sequence[Entry]) -> Source | Stream:
    """Write the set below `folder` and open it."""
    write, kind = WRITERS[form]
    write(folder / form, entries)
    return open_source(folder / form, kind=kind)


def read_all(source: Source | Stream) -> tuple[list[Sample], list[Damage]]:
    """What can be read, and what cannot."""
    found = list(iterate(source))
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Damage)]


def samples(source: Source | Stream) -> list[Sample]:
    return read_all(source)[0]


def captions(source: Source | Stream) -> list[tuple[str, ...]]:
    return [sample.captions for sample in samples(source)]


def rows(source: Source | Stream) -> Source:
    assert not isinstance(source, Stream)
    return source
