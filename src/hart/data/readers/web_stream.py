"""WebDataset shards as a stream, from URLs or disks too slow to seek on; the library `webdataset` reads them."""

from __future__ import annotations

import signal
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hart.data.digests import SetDigest
from hart.data.readers.tar import Member, digest_of_members, list_shard
from hart.data.samples import (
    IMAGE_SUFFIXES,
    NOTE_SUFFIXES,
    Damage,
    DamagedSample,
    Sample,
    class_number,
    one_line,
    read_notes,
)
from hart.errors import HartError


def expand(pattern: str) -> tuple[str, ...]:
    """The shards that a pattern names: braces as in "train-{0000..0063}.tar", several patterns joined by "::"."""
    from webdataset.shardlists import expand_urls

    return tuple(expand_urls(pattern))


def is_remote(shard: str) -> bool:
    """Whether a shard is opened by another program: a URL with a scheme, or "pipe:" and a shell command."""
    return shard.startswith("pipe:") or ("://" in shard and not shard.startswith("file:"))


class WebDatasetStream:
    """Shards in WebDataset form, wherever `webdataset.gopen` reads from (files, http, s3, gs, hf, "pipe:")."""

    def __init__(self, shards: Sequence[str]) -> None:
        """Raises `HartError` naming local shards that are missing; remote ones are asked for when their turn comes."""
        import webdataset.gopen  # noqa: F401 - a missing package is said here, not in the middle of a run

        local = [_local(shard) for shard in shards if not is_remote(shard)]
        if missing := [str(path) for path in local if not path.is_file()]:
            raise HartError(missing_shards(missing))
        if not shards:
            raise HartError("no shards: give at least one")
        self.units = tuple(shards)
        self.description = f"stream of {len(shards)} tar shards from {shards[0]}"

    def read_unit(self, unit: int) -> Iterator[Sample | Damage]:
        from webdataset.gopen import Pipe, gopen
        from webdataset.tariterators import group_by_keys, tar_file_expander

        shard = self.units[unit]
        try:
            stream = gopen(shard)
        except Exception as error:  # every scheme has its own kinds
            raise HartError(f"shard {shard} cannot be opened: {one_line(error)}") from None
        if isinstance(stream, Pipe):
            stream.ignore_errors = True  # its exit status is judged below, once, whenever it comes
        faults: list[Exception] = []
        with stream:
            members = _until_fault(tar_file_expander(iter([{"url": shard, "stream": stream}])), faults)
            for entry in group_by_keys(members):
                sample = _to_sample(shard, entry)
                if sample is not None:
                    yield sample
            if isinstance(stream, Pipe):
                _require_arrival(shard, stream, bool(faults))
        for fault in faults:
            # the library adds the stream and the address to the arguments
            reason = fault.args[0] if fault.args else type(fault).__name__
            yield Damage(shard, f"the shard cannot be read to its end ({reason})")

    def digest(self) -> str:
        digest = SetDigest("stream")
        for shard in self.units:
            if is_remote(shard):
                # what stands after "?" are passwords and dates
                digest.add(shard if shard.startswith("pipe:") else shard.partition("?")[0])
            else:
                digest.add(digest_of_members((member, member.notes_digest()) for member in _members(shard)))
        return digest.hexdigest()


def _local(shard: str) -> Path:
    return Path(shard.removeprefix("file://").removeprefix("file:"))


def _members(shard: str) -> list[Member]:
    """Those that can be read."""
    return list_shard(_local(shard), [])


def missing_shards(missing: Sequence[str]) -> str:
    """What to say when shards are not there."""
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return f"missing shards: {shown}: copy them there, or take them out of the pattern"


def _to_sample(shard: str, entry: dict[str, Any]) -> Sample | Damage | None:
    key = f"{shard}:{entry['__key__']}"
    image = next((entry[suffix] for suffix in entry if suffix in IMAGE_SUFFIXES), None)
    if image is None:
        return None
    try:
        note = read_notes({suffix: entry[suffix] for suffix in entry if suffix in NOTE_SUFFIXES})
    except DamagedSample as error:
        return Damage(key, str(error))
    if note.weight != 1:
        raise HartError(f"{key} has a weight, which a stream cannot follow: read local shards with the kind 'shards'")
    return Sample(key, image, note.captions, class_number(note.label), note.weight, note.record)


def _until_fault(members: Iterator[Any], faults: list[Exception]) -> Iterator[Any]:
    """Members up to the first that cannot be read, so that what is complete before it is still handed on."""
    try:
        yield from members
    except (tarfile.TarError, EOFError, OSError, ValueError) as fault:
        faults.append(fault)


def _require_arrival(shard: str, stream: Any, broken: bool) -> None:
    """A download that failed is no damage to skip: another run would see other pictures. Raises `HartError`."""
    if broken:
        stream.stream.close()
    else:
        stream.stream.read()
    status = stream.proc.wait()
    # 141, 23 and SIGPIPE: the reader closed first, which it does after damage inside the file
    if status and not (broken and status in {141, 23, -signal.SIGPIPE}):
        raise HartError(f"shard {shard} did not arrive: its download ended with status {status}; is the address right?")
