"""Tar shards in WebDataset form: local ones read at random, or any read in order.

The library `webdataset` opens remote shards. Members are grouped the same way however a shard is read.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from hart.data.digests import SetDigest
from hart.data.images import MAX_FILE, SUFFIXES
from hart.data.notes import NOTE_LIMIT, NOTE_SUFFIXES, Note, read_notes
from hart.data.samples import DamagedSample, ImageFile, text_fault
from hart.data.sources import Listed, Located, Read, Source, Stream
from hart.errors import HartError
from hart.files import open_regular
from hart.strict import counted, printable, reason

TWICE = "its name comes twice in the shard"
BROKEN_OFF = "the shard cannot be read to its end ({})"
DOTTED = "no image but {}: in shards a name ends at its first dot; rename it"
MAX_MEMBER = 2**34
"""Most bytes that a header may claim: the library would skip more for hours, and loop forever on a negative number."""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, bzip2, xz and Zstandard files. Random access needs plain archives."""
CLOSED_PIPE = frozenset({141, 23, -getattr(signal, "SIGPIPE", 13)})
"""Exit statuses of programs whose pipe was closed. Windows has no such signal."""
TAR_FAULTS = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error)
"""What the library raises for a damaged archive; a `FileError` is a `ValueError`."""


@dataclass(frozen=True, slots=True)
class Member:
    """An image inside a shard: its name, its place, and its notes."""

    name: str
    image: ImageFile
    note: Note


class TarReader(Source):
    """The images of local shards; members with the same name up to the suffix belong together.

    A shard that breaks off counts as one damaged image; those before the break are used.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = shards
        super().__init__(f"{counted(len(shards), 'tar shard')} in {shards[0].parent}")

    def records(self) -> Iterator[tuple[Member | str, Callable[[], Listed] | str]]:
        for shard in self._shards:
            yield from _list_shard(shard)

    def name(self, place: Member | str) -> str:
        return printable(place if isinstance(place, str) else f"{place.image.path}:{place.name}")

    def read_record(self, place: Member) -> Located:
        return place.note, place.image


class TarStream(Stream):
    """Shards in order: files, or whatever `webdataset.gopen` reads (http, gs, hf, "pipe:")."""

    def __init__(self, shards: Sequence[str]) -> None:
        """Open nothing yet: remote shards are fetched when their turn comes."""
        if any(is_remote(shard) for shard in shards):
            import webdataset.gopen  # noqa: F401 - a missing package is noticed here, not in the middle of a run
        self.units, self.sizes = tuple(shards), [1] * len(shards)
        self.description = f"stream of {counted(len(shards), 'tar shard')} from {shards[0]}"

    def records(self, unit: int) -> Iterator[tuple[str, Callable[[], Read] | str]]:
        shard = self.units[unit]
        fault: Exception | None = None
        with _opened(shard) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictHeader) as tar:
                    yield from _first_of_each_name(shard, _groups(tar, partial(_content, tar)))
            except TAR_FAULTS as error:
                fault = error
            if is_remote(shard):
                _require_arrival(shard, stream, fault is not None)
        if fault is not None:
            yield printable(shard), BROKEN_OFF.format(reason(fault))

    def digest(self) -> str:
        digest = SetDigest("stream")
        for shard in self.units:
            if is_remote(shard):
                # passwords and dates come after "?"
                digest.add(shard if shard.startswith("pipe:") else shard.partition("?")[0])
            else:
                digest.add(TarReader([local_path(shard)]).digest())
        return digest.hexdigest()


def is_remote(shard: str) -> bool:
    """Return whether a shard is opened by another program: a URL with a scheme, or "pipe:" and a shell command."""
    return shard.startswith("pipe:") or ("://" in shard and not shard.startswith("file:"))


def local_path(shard: str) -> Path:
    """Return a shard's file on this machine. On Windows an address has a slash before the drive: file:///C:/a.tar."""
    return Path(re.sub("^file:(//(/(?=[A-Za-z]:))?)?", "", shard))


@dataclass(eq=False)
class _Group:
    """Consecutive members with the same name up to the suffix.

    image: the member that is the image. notes: contents by suffix. fault: why they cannot be used; empty for none.
    dotted: a member that looks like an image of another name, such as "a.b.png" in the group "a"; empty for none.
    """

    name: str
    image: tarfile.TarInfo | None = None
    content: bytes = b""
    notes: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""
    dotted: str = ""

    @property
    def is_image(self) -> bool:
        return self.image is not None or bool(self.fault)

    def read(self) -> Read:
        """Return the notes and the image. Raises `DamagedSample`."""
        if self.fault:
            raise DamagedSample(self.fault)
        return read_notes(self.notes), self.content

    def has_same(self, other: _Group) -> bool:
        """Return whether both have an image or a note of one kind, or either has a fault."""
        twice = self.image is not None and other.image is not None
        return twice or not self.notes.keys().isdisjoint(other.notes) or bool(self.fault or other.fault)


class _StrictHeader(tarfile.TarInfo):
    """A header whose damage is an error; the library takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf:  # the library takes it for the end, which is a block of zeros
                raise tarfile.ReadError("its end is missing") from None
            if not any(buf):
                raise
            if bytes(buf).startswith(COMPRESSED):
                raise tarfile.ReadError("it is compressed: unpack it, or read it as a stream (kind: stream)") from None
            raise tarfile.ReadError(f"a header is damaged ({error})") from None


def _groups(tar: tarfile.TarFile, read_image: Callable[[tarfile.TarInfo], bytes]) -> Iterator[_Group]:
    """Yield the groups of a shard; `read_image` provides `_Group.content`.

    Raises one of `TAR_FAULTS` if the shard breaks off, after the complete groups.
    """
    group = _Group("")
    dotted: dict[str, str] = {}
    fault: Exception | None = None
    while fault is None:
        try:
            member = tar.next()
            # the library would keep all headers
            cast(Any, tar).members.clear()
            if member is not None and not 0 <= member.size <= MAX_MEMBER:
                raise tarfile.ReadError(f"a header is damaged ({member.size:,} bytes)")
        except TAR_FAULTS as error:
            member, fault = None, error
        if member is None:
            break
        name, suffix = _parts(member.name)
        if member.isdir() or not name:
            continue
        if suffix.rpartition(".")[2] in SUFFIXES:
            dotted[name] = "" if suffix in SUFFIXES else dotted.get(name, printable(member.name))
        if suffix not in SUFFIXES | NOTE_SUFFIXES:
            continue
        if name != group.name:
            if group.name:
                yield group
            group = _Group(name)
        _add(group, tar, member, suffix, read_image)
    if group.name:
        yield group
    yield from (_Group(name, dotted=other, fault=DOTTED.format(other)) for name, other in dotted.items() if other)
    if fault is not None:
        raise fault


def _parts(path: str) -> tuple[str, str]:
    """ "a/b.c.PNG" as ("a/b", "c.png"); no name for a hidden file."""
    folder, _, file = path.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}/{stem}" if folder and stem else stem, suffix.lower()


def _add(
    group: _Group, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, read: Callable[[tarfile.TarInfo], bytes]
) -> None:
    is_image = suffix in SUFFIXES
    if fault := text_fault(member.name):
        group.fault = f"its name {fault}"
    elif not member.isreg() or member.issparse():
        group.fault = f"its .{suffix} is a link or not a plain file"
    elif not 0 <= member.size <= (MAX_FILE if is_image else NOTE_LIMIT):
        group.fault = f"its .{suffix} is too large, {member.size:,} bytes"
    elif suffix in group.notes:
        group.fault = f"two .{suffix} of this name"
    elif is_image and group.image is not None:
        group.fault = "two images of this name"
    elif is_image:
        group.image, group.content = member, read(member)
    else:
        group.notes[suffix] = _content(tar, member)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None
    return stream.read()


def _first_of_each_name(shard: str, groups: Iterator[_Group]) -> Iterator[tuple[str, Callable[[], Read] | str]]:
    seen: dict[str, bool] = {}
    for group in groups:
        before = seen.get(group.name)
        seen[group.name] = bool(before) or group.is_image
        if seen[group.name]:
            yield printable(f"{shard}:{group.name}"), group.read if before is None or group.dotted else TWICE


def _list_shard(shard: Path) -> Iterator[tuple[Member | str, Callable[[], Listed] | str]]:
    """Yield the images of a shard, for `TarReader.records`.

    Scattered members, as in an archive of a plain folder, are brought together by name. If a name has a second image or
    a second note of one kind, only its first group counts, as in a stream.
    """
    groups: defaultdict[str, list[_Group]] = defaultdict(list)

    def skipped(member: tarfile.TarInfo) -> bytes:
        if member.offset_data + member.size > size:
            raise tarfile.ReadError("it breaks off inside an image")
        return b""

    try:
        with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictHeader) as tar:
            size = os.fstat(file.fileno()).st_size
            for group in _groups(tar, skipped):
                groups[group.name] = [group] if group.dotted else [*groups[group.name], group]
    except TAR_FAULTS as error:
        yield str(shard), BROKEN_OFF.format(reason(error))
    for name, (first, *later) in groups.items():
        if not any(group.is_image for group in (first, *later)):
            continue
        if any(one.has_same(other) for one, other in itertools.combinations((first, *later), 2)):
            yield from ((f"{shard}:{name}", TWICE) for _ in later)
        else:
            for other in later:
                first.image = first.image or other.image
                first.notes |= other.notes
        if not first.is_image:
            continue
        try:
            note, _ = first.read()
        except DamagedSample as error:
            yield f"{shard}:{name}", str(error)
            continue
        assert first.image is not None
        image = ImageFile(shard, first.image.offset_data, first.image.size)
        yield Member(name, image, note), partial(Listed, note.label, note.weight)


def _opened(shard: str) -> BinaryIO | Any:
    """Open a shard. Raises `HartError`."""
    if not is_remote(shard):
        return open_regular(local_path(shard))
    from webdataset.gopen import Pipe, gopen

    try:
        stream = gopen(shard)
    except Exception as error:  # every scheme has its own errors
        raise HartError(f"shard {shard} cannot be opened: {reason(error)}") from None
    if isinstance(stream, Pipe):
        stream.ignore_errors = True  # `_require_arrival` judges its exit status
    return stream


def _require_arrival(shard: str, stream: Any, broken: bool) -> None:
    """Raise `HartError` for a download that failed: skipping it would give every run other images."""
    from webdataset.gopen import Pipe

    if not isinstance(stream, Pipe):
        return
    if broken:
        stream.stream.close()
    else:
        stream.stream.read()
    status = stream.proc.wait()
    # this program closed the pipe first, as after damage inside the file
    if status and not (broken and status in CLOSED_PIPE):
        raise HartError(f"shard {shard} did not arrive: its download ended with status {status}; is the address right?")
