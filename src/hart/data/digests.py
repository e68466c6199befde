"""The content of a set of images as one hash, so that a run can tell whether its data has changed.

A digest covers, in row order, the notes on each image (captions, label, weight, other fields) and a mark of its file:
the size and the content, or three blocks of the content if the file is larger than `WHOLE_IMAGE` bytes. Adding,
removing or swapping an image and editing a caption change the digest; moving the set, renaming or touching its files do
not. Parquet files and shards of encoded sets count with marks of the whole file (`mark_shard`), so that a change in a
file larger than `WHOLE_SHARD` bytes may go unnoticed.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

from hart.files import FileError, open_regular

WHOLE_IMAGE, IMAGE_BLOCKS = 64 * 2**10, 3
WHOLE_SHARD, SHARD_BLOCKS = 256 * 2**20, 1024
BLOCK = 16 * 2**10
"""Bytes per block, if a file is too large to be read whole."""
ABSENT = b"absent"
"""The mark of an image that cannot be read."""


class SetDigest:
    """SHA-256 over entries of strings and bytes; different lists of entries never have the same encoding."""

    def __init__(self, kind: str) -> None:
        self._digest = hashlib.sha256(kind.encode())

    def add(self, *parts: str | bytes) -> None:
        """Add one entry. Strings may hold lone surrogates, as file names do."""
        for part in (str(len(parts)), *parts):
            content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            self._digest.update(len(content).to_bytes(8, "little"))
            self._digest.update(content)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def mark_bytes(image: bytes) -> bytes:
    """Return the mark of an image in memory, equal to that of its file."""
    return _mark(io.BytesIO(image), 0, len(image), WHOLE_IMAGE, IMAGE_BLOCKS)


def mark_shard(path: Path) -> bytes:
    """Return the mark of a file of many images: all of it up to `WHOLE_SHARD` bytes, else `SHARD_BLOCKS` blocks."""
    return mark_file(path, whole=WHOLE_SHARD, blocks=SHARD_BLOCKS)


def mark_file(
    path: Path, start: int = 0, size: int | None = None, *, whole: int = WHOLE_IMAGE, blocks: int = IMAGE_BLOCKS
) -> bytes:
    """Return the mark of an image: a file, or `size` bytes of one from `start` on. `ABSENT` if it cannot be read."""
    try:
        with open_regular(path) as file:
            return _mark(file, start, file.seek(0, io.SEEK_END) if size is None else size, whole, blocks)
    except (FileError, OSError):
        return ABSENT


def _mark(file: BinaryIO, start: int, size: int, whole: int, blocks: int) -> bytes:
    digest = hashlib.sha256(str(size).encode())
    if size <= whole:
        file.seek(start)
        while size and (content := file.read(min(size, WHOLE_SHARD // 64))):
            digest.update(content)
            size -= len(content)
    else:
        for number in range(blocks):
            file.seek(start + (size - BLOCK) * number // (blocks - 1))
            digest.update(file.read(BLOCK))
    return digest.digest()
