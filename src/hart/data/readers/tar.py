"""Tar shards on this machine, in WebDataset form, read at random: the place of every member is listed once."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hart.data.digests import ABSENT, mark_range
from hart.data.notes import Note
from hart.data.readers.base import Listed, Read, RowReader
from hart.data.readers.tar_members import TAR_FAULTS, TWICE, Group, StrictHeader, broken_off, read_groups
from hart.data.samples import DamagedSample, one_line, shown
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


class TarReader(RowReader):
    """The pictures of tar shards; those with the same name but for the suffix belong together.

    A shard that breaks off counts as one damage; what comes before is good.
    """

    kind = "tar shards"

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = shards
        super().__init__(f"{len(shards)} tar shards in {shards[0].parent}")

    def records(self) -> Iterator[tuple[Member | str, Callable[[], Listed] | str]]:
        for shard in self._shards:
            yield from list_shard(shard)

    def name(self, place: Member | str) -> str:
        return shown(place if isinstance(place, str) else f"{place.shard}:{place.name}")

    def read_record(self, place: Member) -> Read:
        try:
            with open_regular(place.shard) as file:
                file.seek(place.offset)
                return place.note, file.read(place.size)
        except (FileError, OSError) as error:
            raise DamagedSample(one_line(error)) from None

    def mark(self, place: Member, label: int | None) -> tuple[str | bytes, ...]:
        try:
            with open_regular(place.shard) as file:
                return place.name, place.notes_digest, mark_range(file, place.offset, place.size)
        except (FileError, OSError):
            return (ABSENT,)


def list_shard(shard: Path) -> Iterator[tuple[Member | str, Callable[[], Listed] | str]]:
    """What lies in a shard, as `TarReader.records` gives it.

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
        yield str(shard), broken_off(error)
    yield from ((f"{shard}:{name}", TWICE) for name in _bring_together(groups, later))
    for group in groups.values():
        if group.image is None and not group.fault:
            continue
        try:
            note = group.note()
        except DamagedSample as error:
            yield f"{shard}:{group.name}", str(error)
            continue
        assert group.image is not None
        place = group.image.offset_data, group.image.size
        member = Member(shard, group.name, *place, note, group.notes_digest())
        yield member, partial(Listed, note.label, note.weight)


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
