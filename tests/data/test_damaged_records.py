"""In every format, a record that makes no sense is skipped, counted and named; nothing else suffers."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hart.data.opening import open_source
from hart.data.samples import Damage, Sample
from hart.errors import HartError
from image_files import encoded_image, numbered, write_tar
from set_formats import Entry, every_format, open_written, read_all

TABLES = {"parquet", "huggingface"}
NESTED = "[" * 100_000 + "]" * 100_000
DAMAGED: dict[str, Mapping[str, Any]] = {
    "a number": {"caption": 3},
    "true": {"caption": True},
    "not a number": {"caption": float("nan")},
    "a table": {"caption": {"keys": "learned"}},
    "a number in a list": {"captions": ["two", 2]},
    "nothing in a list": {"captions": ["two", None]},
    "a list in a list": {"captions": [["two"]]},
    "a null byte": {"caption": "a\0b"},
    "half a character": {"caption": "a \ud800"},
    "a label of 30 digits": {"caption": "a", "label": 10**29},
    "a label of 30 digits as text": {"caption": "a", "label": "1" * 30},
    "a label of 5000 digits as text": {"caption": "a", "label": "1" * 5000},
    "a label beyond 64 bits": {"caption": "a", "label": 2**63},
    "a negative label": {"caption": "a", "label": -7},
    "a negative label as text": {"caption": "a", "label": "-7"},
    "a label of half a character": {"caption": "a", "label": "\udcff"},
    "a label that is true": {"caption": "a", "label": True},
    "a label between numbers": {"caption": "a", "label": 1.5},
    "a label that is a list": {"caption": "a", "label": [1]},
    "a negative weight": {"caption": "a", "weight": -1},
    "a weight of words": {"caption": "a", "weight": "much"},
    "a weight of 400 digits": {"caption": "a", "weight": 10**400},
    "a weight that is true": {"caption": "a", "weight": True},
}
FINE: dict[str, tuple[Mapping[str, Any], tuple[str, ...], int | None]] = {
    "nothing said": ({"caption": None, "label": None}, (), None),
    "blank": ({"caption": "  ", "label": " "}, (), None),
    "blank ones among others": ({"captions": ["", " a "]}, ("a",), None),
    "a label in digits": ({"caption": "a", "label": "007"}, ("a",), 7),
    "no label, as the hub says it": ({"caption": "a", "label": -1}, ("a",), None),
    "the same in digits": ({"caption": "a", "label": "-1"}, ("a",), None),
    "the largest label": ({"caption": "a", "label": 2**63 - 1}, ("a",), 2**63 - 1),
    "all of Unicode": ({"caption": "Grüße 你好 🐸"}, ("Grüße 你好 🐸",), None),
}


def found(form: str, folder: Path, entries: Sequence[Entry]) -> tuple[list[Sample], list[Damage]]:
    """The content of a set; one with nothing sound in it may also be refused by name."""
    try:
        return read_all(open_written(form, folder, entries))
    except HartError as error:
        return [], [Damage("bad", str(error))] * len(entries)


def sets_of(form: str, records: Iterable[Mapping[str, Any]]) -> Iterator[list[Entry]]:
    """All in one set; where a column has one type each alone, of those that Arrow can hold."""
    entries = [Entry(f"own{n}", numbered(n), record) for n, record in enumerate(records)]
    if form not in TABLES:
        yield entries
        return
    for entry in entries:
        try:
            pa.table({name: [value] for name, value in entry.record.items()})
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            continue
        yield [entry]


@every_format
def test_damaged_records_cost_themselves_and_nothing_else(form: str, tmp_path: Path) -> None:
    good = [] if form in TABLES else [Entry(f"good{n}", numbered(n), {"caption": f"number {n}"}) for n in range(3)]
    for number, bad in enumerate(sets_of(form, DAMAGED.values())):
        samples, damaged = found(form, tmp_path / f"{number}", [*good[:1], *bad, *good[1:]])
        assert [sample.captions for sample in samples] == [(entry.record["caption"],) for entry in good]
        assert len(damaged) == len(bad), damaged
        assert all(one.reason and "\n" not in one.reason for one in damaged)
        if form not in {"jsonl", *TABLES}:
            assert {Path(one.key.rpartition(":")[2]).stem for one in damaged} == {entry.name for entry in bad}


@every_format
def test_what_is_unusual_but_fine(form: str, tmp_path: Path) -> None:
    expected = {repr(record): (captions, label) for record, captions, label in FINE.values()}
    for number, entries in enumerate(sets_of(form, (record for record, *_ in FINE.values()))):
        samples, damaged = found(form, tmp_path / f"{number}", entries)
        assert [(one.captions, one.label) for one in samples] == [expected[repr(one.record)] for one in entries]
        assert not damaged


@pytest.mark.parametrize(
    ("suffix", "note"),
    [
        ("txt", b"caf\xe9"),
        ("txt", b"a\0b"),
        ("cls", b"9" * 30),
        ("json", NESTED.encode()),
        ("json", b'["a"]'),
        ("txt", b"a" * (2**24 + 1)),
    ],
)
def test_notes_that_cannot_be_read(suffix: str, note: bytes, tmp_path: Path) -> None:
    members = {"0.png": numbered(0), "0.txt": b"fine", "1.png": numbered(1), f"1.{suffix}": note}
    (tmp_path / "folder").mkdir()
    for name, content in members.items():
        (tmp_path / "folder" / name).write_bytes(content)
    write_tar(tmp_path / "train-0.tar", members)
    lines = json.dumps({"image": "folder/0.png", "text": "fine"}).encode() + b"\n" + note.replace(b"\n", b" ") + b"\n"
    (tmp_path / "set.jsonl").write_bytes(lines)
    for address, kind in (("folder", None), ("train-0.tar", None), ("train-0.tar", "stream"), ("set.jsonl", None)):
        samples, damaged = read_all(open_source(tmp_path / address, "all", kind=kind))  # type: ignore[arg-type]
        assert [sample.captions for sample in samples] == [("fine",)]
        assert len(damaged) == 1 and "\n" not in damaged[0].reason


def test_names_that_are_no_text(tmp_path: Path) -> None:
    members = {"0.png": numbered(0), "caf\udce9.png": numbered(1), "deep\udcff/1.png": numbered(2)}
    write_tar(tmp_path / "train-0.tar", members)
    (tmp_path / "folder" / "deep\udcff").mkdir(parents=True)
    for name, content in members.items():
        try:
            (tmp_path / "folder" / name).write_bytes(content)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
    lines = [json.dumps({"image": os.path.join("folder", name)}) for name in members]  # noqa: PTH118
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    for address, kind in (("folder", None), ("train-0.tar", None), ("train-0.tar", "stream"), ("set.jsonl", None)):
        source = open_source(tmp_path / address, "all", kind=kind)  # type: ignore[arg-type]
        samples, damaged = read_all(source)
        assert [sample.image for sample in samples] == [numbered(0)]
        assert len(damaged) == 2 and all(f"{damage.key}: {damage.reason}".encode() for damage in damaged)
        source.digest()


def test_a_record_without_an_image_is_damaged(tmp_path: Path) -> None:
    images = [None, "", 3, {}, "https://example.org/0.png", "0.png"]
    (tmp_path / "0.png").write_bytes(numbered(0))
    (tmp_path / "set.jsonl").write_text("\n".join(json.dumps({"image": image, "text": "a"}) for image in images))
    pq.write_table(pa.table({"image": [None, numbered(0)], "text": ["a", "a"]}), tmp_path / "set.parquet")
    for name, expected in (("set.jsonl", 5), ("set.parquet", 1)):
        samples, damaged = read_all(open_source(tmp_path / name))
        assert [sample.image for sample in samples] == [numbered(0)]
        assert len(damaged) == expected and all("image" in damage.reason for damage in damaged)


def test_text_in_parquet_that_is_no_text(tmp_path: Path) -> None:
    captions = pa.array([b"fine", b"caf\xe9", b"fine too"]).view(pa.string())
    pq.write_table(pa.table({"image": [numbered(n) for n in range(3)], "text": captions}), tmp_path / "set.parquet")
    samples, damaged = read_all(open_source(tmp_path / "set.parquet"))
    assert [sample.captions for sample in samples] == [("fine",), ("fine too",)]
    assert [damage.key.endswith("row 1") for damage in damaged] == [True]


def test_a_damaged_row_group_of_parquet_costs_its_rows_and_names_its_file_once(tmp_path: Path) -> None:
    file = tmp_path / "set.parquet"
    images = [bytes([n]) * 4000 for n in range(4)]
    pq.write_table(pa.table({"image": images, "text": ["a"] * 4}), file, row_group_size=2)
    source, content = open_source(file), file.read_bytes()
    wrong = content.find(b"\x01" * 50)
    assert 0 < wrong < len(content) // 2
    file.write_bytes(b"\xff" * wrong + content[wrong:])
    samples, (damage,) = read_all(source)
    assert [sample.image for sample in samples] == images[2:]
    assert str(damage).startswith(f"{file}, row group 0: not a readable Parquet file (")
    assert str(damage).count(file.name) == 1


TWICE = {
    "two images": (["0.png", "0.png", "0.txt"], []),
    "two kinds of image": (["0.png", "0.jpg", "0.txt"], []),
    "upper and lower case": (["0.png", "0.PNG", "0.txt"], []),
    "two notes": (["0.png", "0.txt", "0.TXT"], []),
    "again later": (["0.png", "0.txt", "1.png", "1.txt", "0.png", "0.txt"], [("0.txt of 1",), ("1.txt of 3",)]),
    "an image again later": (["0.png", "0.txt", "1.png", "1.txt", "0.png"], [("0.txt of 1",), ("1.txt of 3",)]),
    "a note again later": (["0.png", "0.txt", "1.png", "1.txt", "0.txt"], [("0.txt of 1",), ("1.txt of 3",)]),
}


@pytest.mark.parametrize("kind", ["shards", "stream"])
@pytest.mark.parametrize(("names", "expected"), TWICE.values(), ids=TWICE)
def test_a_name_that_comes_twice_in_a_tar_is_damaged_and_never_mixed(
    kind: Any, names: list[str], expected: list[tuple[str, ...]], tmp_path: Path
) -> None:
    write_tar(
        tmp_path / "a.tar",
        [(name, f"{name} of {n}".encode() if "txt" in name.lower() else numbered(n)) for n, name in enumerate(names)]
        + [("9.png", numbered(9)), ("9.txt", b"9")],
    )
    samples, damaged = read_all(open_source(tmp_path / "a.tar", kind=kind))
    assert [sample.captions for sample in samples] == [*expected, ("9",)]
    assert [damage.key.rpartition(":")[2] for damage in damaged] == ["0"]


@pytest.mark.parametrize("link", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("kind", ["shards", "stream"])
def test_a_link_in_a_tar_costs_its_own_image_and_a_folder_none(kind: Any, link: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.png", "0.json", "1.png", "2.png", "2.txt", "3.png"):
            member = tarfile.TarInfo(name)
            if name == "0.json":
                member.type = tarfile.DIRTYPE
            elif name in {"1.png", "2.txt"}:
                member.type, member.linkname = link, "0.png"
            else:
                member.size = len(numbered(0))
            tar.addfile(member, io.BytesIO(numbered(0)))
    samples, damaged = read_all(open_source(tmp_path / "a.tar", kind=kind))
    assert [sample.key[-1] for sample in samples] == ["0", "3"]
    assert [str(damage).rpartition("a.tar:")[2] for damage in damaged] == [
        f"{name} is a link or not a plain file" for name in ("1: its .png", "2: its .txt")
    ]


@pytest.mark.parametrize("kind", ["shards", "stream"])
def test_an_image_in_a_tar_whose_name_has_another_dot_is_named_unless_it_belongs_to_one(
    kind: Any, tmp_path: Path
) -> None:
    names = [
        "0.png",
        "0.txt",
        "0.mask.png",
        "b/1.txt",
        "b/1.v2\n.png",
        "b/1.v3.png",
        "2.a.json",
        "3.seg.png",
        "4.png",
        "3.png",
        "._4.png",
        "b/.hidden.png",
        "about.json",
    ]
    write_tar(tmp_path / "a.tar", [(name, numbered(n) if "png" in name else b"x") for n, name in enumerate(names)])
    samples, damaged = read_all(open_source(tmp_path / "a.tar", kind=kind))
    assert [sample.key.rpartition(":")[2] for sample in samples] == ["0", "4", "3"]
    assert [str(damage).rpartition(":b/")[2] for damage in damaged] == [
        "1: no image but b/1.v2\\n.png: in shards a name ends at its first dot; rename it"
    ]


@pytest.mark.parametrize("kind", ["shards", "stream"])
@pytest.mark.parametrize("size", ["-512", str(2**62)])
def test_a_tar_whose_header_claims_an_absurd_size_ends_there(kind: Any, size: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("0.png", "1.png", "2.png"):
            member = tarfile.TarInfo(name)
            member.size = len(numbered(0))
            member.pax_headers = {"size": size} if name == "1.png" else {}
            tar.addfile(member, io.BytesIO(numbered(0)))
    samples, damaged = read_all(open_source(tmp_path / "a.tar", kind=kind))
    assert len(samples) == 1 and f"({int(size):,} bytes)" in damaged[0].reason


def test_a_compressed_shard_is_read_as_a_stream_and_otherwise_called_what_it_is(tmp_path: Path) -> None:
    write_tar(tmp_path / "plain.tar", {"0.png": numbered(0), "0.txt": b"zero"})
    shard = tmp_path / "train-0000.tar"
    shard.write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    samples, damaged = read_all(open_source(shard, kind="stream"))
    assert [sample.captions for sample in samples] == [("zero",)] and not damaged
    with pytest.raises(HartError, match="it is compressed: unpack it, or read it as a stream"):
        read_all(open_source(shard, kind="shards"))


def test_members_that_lie_scattered_are_brought_together_where_shards_are_read_at_random(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": numbered(0), "1.png": numbered(1), "1.txt": b"one", "0.txt": b"zero"})
    samples, damaged = read_all(open_source(tmp_path / "a.tar"))
    assert [sample.captions for sample in samples] == [("zero",), ("one",)] and not damaged
    samples, damaged = read_all(open_source(tmp_path / "a.tar", kind="stream"))
    assert [sample.captions for sample in samples] == [(), ("one",)] and len(damaged) == 1


def test_byte_order_marks_and_suffixes_in_upper_case(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    notes = {"TXT": b"a cat\r\n", "Json": b'{"caption": "a cat"}', "CLS": b"7"}
    for suffix, note in notes.items():
        (tmp_path / f"{suffix}.PNG").write_bytes(numbered(1))
        (tmp_path / f"{suffix}.{suffix}").write_bytes(mark + note)
    write_tar(tmp_path / "a.tar", {file.name: file.read_bytes() for file in sorted(tmp_path.iterdir())})
    line = json.dumps({"image": "TXT.PNG", "caption": "a cat"}).encode()
    (tmp_path / "set.JSONL").write_bytes(mark + line + b"\n" + mark + line)
    expected = {"set.JSONL": [("a cat",)] * 2}
    for address in (".", "a.tar", "set.JSONL"):
        samples, damaged = read_all(open_source(tmp_path / address, "all", kind="folder" if address == "." else None))
        assert [sample.captions for sample in samples] == expected.get(address, [("7",), ("a cat",), ("a cat",)])
        assert not damaged


def test_links_to_folders_are_followed_once_around(tmp_path: Path) -> None:
    for place in ("elsewhere/cat", "set/dog", "set/emu"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(encoded_image("red"))
    try:
        (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    except OSError:
        pytest.skip("no links here")
    (tmp_path / "set" / "ape").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "dog" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "dog" / "self").symlink_to("self")
    (tmp_path / "set" / "dog" / "self.png").symlink_to("self.png")
    source = open_source(tmp_path / "set", "all")
    samples, damaged = read_all(source)
    assert source.classes == ("cat", "dog", "emu")  # type: ignore[union-attr]
    assert [sample.label for sample in samples] == [0, 1, 2]
    assert [Path(damage.key).name for damage in damaged] == ["self.png"]
    assert len(read_all(open_source(tmp_path / "set", "all", kind="folder"))[0]) == 3
