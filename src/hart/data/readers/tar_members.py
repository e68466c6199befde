"""What lies in a tar shard: members of one name in their order, the same however the shard is read."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, cast

from hart.data.images import MAX_FILE
from hart.data.notes import NOTE_LIMIT, NOTE_SUFFIXES, Note, read_notes
from hart.data.readers.folder import IMAGE_SUFFIXES
from hart.data.samples import DamagedSample, one_line, text_fault
from hart.files import FileError

TWICE = "its name comes twice in the shard"
MAX_MEMBER = 2**34
"""Bytes that a header may claim: the library would skip more for hours, and go round in circles for less than none."""


@dataclass
class Group:
    """Members that follow each other and have the same name but for the suffix.

    image: the member that is the picture. notes: contents by suffix. fault: why they cannot be used; empty for none.
    """

    name: str
    image: tarfile.TarInfo | None = None
    content: bytes = b""
    notes: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""

    def note(self) -> Note:
        """Raises `DamagedSample`."""
        if self.fault:
            raise DamagedSample(self.fault)
        return read_notes(self.notes)

    def notes_digest(self) -> bytes:
        """Of all its notes as they are written."""
        digest = hashlib.sha256()
        for suffix, content in sorted(self.notes.items()):
            digest.update(f"{suffix} {len(content)} ".encode())
            digest.update(content)
        return digest.digest()

    def has_same(self, other: Group) -> bool:
        """Whether both have a picture, or a note of one kind, or something is wrong with one of them."""
        twice = self.image is not None and other.image is not None
        return twice or not self.notes.keys().isdisjoint(other.notes) or bool(self.fault or other.fault)


class StrictHeader(tarfile.TarInfo):
    """A header whose damage is an error, where the library takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):  # the end
                raise
            raise tarfile.ReadError(f"a header is damaged ({error})") from None


TAR_FAULTS = (tarfile.TarError, FileError, EOFError, OSError, ValueError, OverflowError, zlib.error)
"""What a damaged archive makes the library raise."""


def broken_off(error: Exception) -> str:
    return f"the shard cannot be read to its end ({one_line(error)})"


def read_groups(tar: tarfile.TarFile, read_image: Callable[[tarfile.TarInfo], bytes]) -> Iterator[Group]:
    """The groups of a shard, opened with `StrictHeader`; what `read_image` gives becomes `Group.content`.

    Raises one of `TAR_FAULTS` where the shard breaks off, after the groups that are whole.
    """
    group = Group("")
    while True:
        try:
            member = tar.next()
            # the library would keep all headers
            cast(Any, tar).members.clear()
            if member is not None and not 0 <= member.size <= MAX_MEMBER:
                raise tarfile.ReadError(f"a header is damaged ({member.size:,} bytes)")
        except TAR_FAULTS:
            if group.name:
                yield group
            raise
        if member is None:
            break
        folder, _, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        suffix = suffix.lower()
        if member.isdir() or not stem or suffix not in IMAGE_SUFFIXES | NOTE_SUFFIXES:
            continue
        name = f"{folder}/{stem}" if folder else stem
        if name != group.name:
            if group.name:
                yield group
            group = Group(name)
        _add(group, tar, member, suffix, read_image)
    if group.name:
        yield group


def _add(
    group: Group, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, read: Callable[[tarfile.TarInfo], bytes]
) -> None:
    is_image = suffix in IMAGE_SUFFIXES
    if fault := text_fault(member.name):
        group.fault = f"its name {fault}"
    elif not member.isreg() or member.issparse():
        group.fault = f"its .{suffix} is a link or no plain file"
    elif not 0 <= member.size <= (MAX_FILE if is_image else NOTE_LIMIT):
        group.fault = f"its .{suffix} is too large, {member.size:,} bytes"
    elif suffix in group.notes:
        group.fault = f"two .{suffix} of this name"
    elif is_image and group.image is not None:
        group.fault = "two pictures of this name"
    elif is_image:
        group.image, group.content = member, read(member)
    else:
        stream = tar.extractfile(member)
        assert stream is not None
        group.notes[suffix] = stream.read()
        if len(group.notes[suffix]) < member.size:
            raise tarfile.ReadError("it breaks off inside a note")
