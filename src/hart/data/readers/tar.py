"""Tar shards on this machine, in WebDataset form, read at random: the place of every member is listed once."""

from __future__ import annotations

import hashlib
import itertools
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_range
from hart.data.samples import (
    IMAGE_SUFFIXES,
    NOTE_SUFFIXES,
    Damage,
    DamagedSample,
    Note,
    Sample,
    as_weights,
    number_classes,
    one_line,
    read_notes,
)
from hart.files import FileError, open_regular


@dataclass
class Member:
    """A picture inside a shard: where its image lies, and its notes by suffix."""

    key: str
    shard: Path
    offset: int = -1
    size: int = 0
    notes: dict[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Within its shard."""
        return self.key.removeprefix(f"{self.shard}:")

    def notes_digest(self) -> bytes:
        """Of all its notes as they are written."""
        digest = hashlib.sha256()
        for suffix, content in sorted(self.notes.items()):
            digest.update(f"{suffix} {len(content)} ".encode())
            digest.update(content)
        return digest.digest()


class TarSource:
    """The pictures of tar shards; those with the same name but for the suffix belong together.

    A shard that breaks off counts as one damage; what comes before is good.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        damaged: list[Damage] = []
        self._said: list[bytes] = []
        self._members: list[Member] = []
        self._notes: list[Note] = []
        for shard in shards:
            for member in list_shard(shard, damaged):
                try:
                    note = read_notes(member.notes)
                except DamagedSample as error:
                    damaged.append(Damage(member.key, str(error)))
                    continue
                self._said.append(member.notes_digest())
                member.notes.clear()
                self._members.append(member)
                self._notes.append(note)
        self._labels, self.classes = number_classes([note.label for note in self._notes])
        self.weights: Tensor = as_weights(note.weight for note in self._notes)
        self.damaged = tuple(damaged)
        self.description = f"{len(shards)} tar shards in {shards[0].parent}: {len(self)} pictures"

    def __len__(self) -> int:
        return len(self._members)

    def key(self, row: int) -> str:
        return self._members[row].key

    def read(self, row: int) -> Sample:
        member, note = self._members[row], self._notes[row]
        try:
            with member.shard.open("rb") as file:
                file.seek(member.offset)
                image = file.read(member.size)
        except OSError as error:
            raise DamagedSample(f"cannot be read ({error.strerror})") from None
        return Sample(member.key, image, note.captions, self._labels[row], note.weight, note.record)

    def digest(self) -> str:
        return digest_of_members(zip(self._members, self._said, strict=True))


def digest_of_members(members: Iterable[tuple[Member, bytes]]) -> str:
    """Of images in tar shards, each with `Member.notes_digest`."""
    digest = SetDigest("tar shards")
    for shard, own in itertools.groupby(members, key=lambda member: member[0].shard):
        try:
            with open_regular(shard) as file:
                for member, notes in own:
                    digest.add(member.name, notes, mark_range(file, member.offset, member.size))
        except (FileError, OSError):
            digest.add(ABSENT)
    return digest.hexdigest()


def list_shard(shard: Path, damaged: list[Damage]) -> list[Member]:
    """The pictures of a shard; adds to `damaged` where it breaks off."""
    members: dict[str, Member] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                folder, _, name = info.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                suffix = suffix.lower()
                if not (info.isfile() and stem and suffix in IMAGE_SUFFIXES | NOTE_SUFFIXES):
                    continue
                key = f"{shard}:{folder}/{stem}" if folder else f"{shard}:{stem}"
                member = members.setdefault(key, Member(key, shard))
                if suffix in IMAGE_SUFFIXES:
                    if info.offset_data + info.size > shard.stat().st_size:
                        raise tarfile.ReadError("it breaks off inside a picture")
                    member.offset, member.size = info.offset_data, info.size
                else:
                    stream = tar.extractfile(info)
                    assert stream is not None
                    member.notes[suffix] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        damaged.append(Damage(str(shard), f"the shard cannot be read to its end ({one_line(error)})"))
    return [member for member in members.values() if member.offset >= 0]
