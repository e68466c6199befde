"""Tar shards on this machine, in WebDataset form, read at random: the place of every member is listed once."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_range
from hart.data.notes import Note, as_weights, number_classes
from hart.data.readers.tar_members import TAR_FAULTS, TWICE, Group, StrictHeader, read_groups
from hart.data.samples import Damage, DamagedSample, Sample, one_line, shown
from hart.files import FileError, open_regular


@dataclass(frozen=True, slots=True)
class Member:
    """A picture inside a shard: where its image lies, and what is said about it."""

    shard: Path
    name: str
    offset: int
    size: int
    note: Note
    notes_digest: bytes

    @property
    def key(self) -> str:
        return shown(f"{self.shard}:{self.name}")


class TarSource:
    """The pictures of tar shards; those with the same name but for the suffix belong together.

    A shard that breaks off counts as one damage; what comes before is good.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        damaged: list[Damage] = []
        self._members = [member for shard in shards for member in list_shard(shard, damaged)]
        self._labels, self.classes = number_classes([member.note.label for member in self._members])
        self.weights: Tensor = as_weights(member.note.weight for member in self._members)
        self.damaged = tuple(damaged)
        self.description = f"{len(shards)} tar shards in {shards[0].parent}: {len(self)} pictures"

    def __len__(self) -> int:
        return len(self._members)

    def key(self, row: int) -> str:
        return self._members[row].key

    def read(self, row: int) -> Sample:
        member = self._members[row]
        try:
            with open_regular(member.shard) as file:
                file.seek(member.offset)
                image = file.read(member.size)
        except (FileError, OSError) as error:
            raise DamagedSample(one_line(error)) from None
        note = member.note
        return Sample(member.key, image, note.captions, self._labels[row], note.weight, note.record)

    def digest(self) -> str:
        return digest_of_members(self._members)


def digest_of_members(members: Iterable[Member]) -> str:
    """Of images in tar shards."""
    digest = SetDigest("tar shards")
    for shard, own in itertools.groupby(members, key=lambda member: member.shard):
        try:
            with open_regular(shard) as file:
                for member in own:
                    digest.add(member.name, member.notes_digest, mark_range(file, member.offset, member.size))
        except (FileError, OSError):
            digest.add(ABSENT)
    return digest.hexdigest()


def list_shard(shard: Path, damaged: list[Damage]) -> list[Member]:
    """The pictures of a shard; adds to `damaged` what cannot be used, and where the shard breaks off.

    What lies scattered, as in an archive of a folder as it stood, is brought together by name; but where a name brings
    a second picture or note of one kind, only its first group stands, as for who reads one after the other.
    """
    groups: dict[str, Group] = {}
    later: list[Group] = []
    try:
        with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=StrictHeader) as tar:
            size = os.fstat(file.fileno()).st_size
            for group in read_groups(tar, lambda member: _within(member, size)):
                if group.name in groups:
                    later.append(group)
                else:
                    groups[group.name] = group
    except TAR_FAULTS as error:
        damaged.append(Damage(shown(str(shard)), f"the shard cannot be read to its end ({one_line(error)})"))
    damaged += [Damage(shown(f"{shard}:{name}"), TWICE) for name in _bring_together(groups, later)]
    members = []
    for group in groups.values():
        if group.image is None and not group.fault:
            continue
        try:
            note = group.note()
        except DamagedSample as error:
            damaged.append(Damage(shown(f"{shard}:{group.name}"), str(error)))
            continue
        assert group.image is not None
        place = group.image.offset_data, group.image.size
        members.append(Member(shard, group.name, *place, note, group.notes_digest()))
    return members


def _bring_together(groups: dict[str, Group], later: Sequence[Group]) -> Iterator[str]:
    """Add groups that came later to the first of their name; the names of those that bring a thing twice."""
    again: defaultdict[str, list[Group]] = defaultdict(list)
    for group in later:
        again[group.name].append(group)
    for name, others in again.items():
        whole = [groups[name], *others]
        if all(group.image is None and not group.fault for group in whole):
            continue
        if any(one.has_same(other) for one, other in itertools.combinations(whole, 2)):
            yield from (name for _ in others)
            continue
        for other in others:
            groups[name].image = groups[name].image or other.image
            groups[name].notes |= other.notes


def _within(member: tarfile.TarInfo, size: int) -> bytes:
    """Nothing is read but the place. Raises `tarfile.ReadError` for a picture that ends after the shard does."""
    if member.offset_data + member.size > size:
        raise tarfile.ReadError("it breaks off inside a picture")
    return b""
