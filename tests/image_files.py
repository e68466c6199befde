"""Tiny image files and shards for the tests of data sets."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image


def encoded_image(colour: str | tuple[int, int, int], size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def jpeg_of_scans(count: int) -> bytes:
    """A JPEG that is drawn over so many times more than it need be."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def jpeg_of_exif(parts: int) -> bytes:
    """A JPEG whose EXIF comes in so many parts."""
    content = encoded_image("red", kind="JPEG")
    return content[:2] + b"\xff\xe1\0\x0aExif\0\0MM" * parts + content[2:]


def png_of_parts(kind: bytes, count: int) -> bytes:
    """A PNG with so many parts of a kind, which hold nothing, before its pixels."""
    content = encoded_image("red")
    return content[:33] + (bytes(4) + kind + zlib.crc32(kind).to_bytes(4)) * count + content[33:]


def numbered(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """An image whose red says which one it is."""
    return encoded_image((number, 100, 200), size)


def write_tar(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_numbered_shards(folder: Path, shards: int, each: int, damaged: tuple[int, ...] = ()) -> None:
    """`train-0000.tar` and so on with images 0, 1, ... captioned by their number; some do not decode."""
    for shard in range(shards):
        members = {}
        for number in range(shard * each, (shard + 1) * each):
            members[f"{number:04d}.png"] = b"no image" if number in damaged else numbered(number)
            members[f"{number:04d}.txt"] = str(number).encode()
        write_tar(folder / f"train-{shard:04d}.tar", members)


def write_captioned_folder(folder: Path, count: int, damaged: tuple[int, ...] = ()) -> None:
    """Images 0, 1, ... with two captions each; a folder per split, all in `train`."""
    (folder / "train").mkdir(parents=True)
    for number in range(count):
        data = b"no image" if number in damaged else numbered(number, (12, 8))
        (folder / "train" / f"{number:04d}.png").write_bytes(data)
        (folder / "train" / f"{number:04d}.txt").write_text(f"first of {number}\nsecond of {number}\n")


def captioned(folder: Path, count: int, bare: tuple[int, ...] = ()) -> Path:
    """Images 0, 1, ... in a new folder, with a caption each but for `bare` ones."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(numbered(number))
        if number not in bare:
            (folder / f"{number}.txt").write_text(f"number {number}")
    return folder


def class_folders(folder: Path, classes: int) -> Path:
    """Three images in a folder for each class: 0, 1, ..."""
    for number in range(classes):
        captioned(folder / f"{number}", 3, bare=(0, 1, 2))
    return folder
