"""WebDataset shards as a stream, from URLs or disks too slow to seek on; the library `webdataset` reads them."""

from __future__ import annotations

import signal
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hart.data.digests import SetDigest
from hart.data.readers.base import Read, StreamReader
from hart.data.readers.tar import TarReader
from hart.data.readers.tar_members import TAR_FAULTS, TWICE, Group, StrictHeader, broken_off, read_groups
from hart.data.samples import one_line, shown
from hart.errors import HartError
from hart.files import FileError, open_regular


def is_remote(shard: str) -> bool:
    """Whether a shard is opened by another program: a URL with a scheme, or "pipe:" and a shell command."""
    return shard.startswith("pipe:") or ("://" in shard and not shard.startswith("file:"))


class TarStream(StreamReader):
    """Shards in WebDataset form: files, or what `webdataset.gopen` reads from (http, s3, gs, hf, "pipe:")."""

    def __init__(self, shards: Sequence[str]) -> None:
        """Remote shards are asked for when their turn comes."""
        if not shards:
            raise HartError("no shards: give at least one")
        if any(is_remote(shard) for shard in shards):
            import webdataset.gopen  # noqa: F401 - a missing package is said here, not in the middle of a run
        self.units = tuple(shards)
        self.description = f"stream of {len(shards)} tar shards from {shards[0]}"

    def records(self, unit: int) -> Iterator[tuple[str, Callable[[], Read] | str]]:
        shard = self.units[unit]
        fault: Exception | None = None
        with _opened(shard) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|*", tarinfo=StrictHeader) as tar:
                    yield from _records(shard, read_groups(tar, lambda member: _content(tar, member)))
            except TAR_FAULTS as error:
                if isinstance(error, HartError) and not isinstance(error, FileError):
                    raise
                fault = error
            if is_remote(shard):
                _require_arrival(shard, stream, fault is not None)
        if fault is not None:
            yield shown(shard), broken_off(fault)

    def digest(self) -> str:
        digest = SetDigest("stream")
        for shard in self.units:
            if is_remote(shard):
                # what stands after "?" are passwords and dates
                digest.add(shard if shard.startswith("pipe:") else shard.partition("?")[0])
            else:
                digest.add(TarReader([local_path(shard)]).digest())
        return digest.hexdigest()


def local_path(shard: str) -> Path:
    """The file of a shard on this machine."""
    return Path(shard.removeprefix("file://").removeprefix("file:"))


def missing_shards(missing: Sequence[str]) -> str:
    """What to say when shards are not there."""
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return f"missing shards: {shown}: copy them there, or take them out of the pattern"


def _records(shard: str, groups: Iterator[Group]) -> Iterator[tuple[str, Callable[[], Read] | str]]:
    """What the groups of a shard are; of those with one name, the first."""
    seen: dict[str, bool] = {}
    for group in groups:
        is_picture = group.image is not None or bool(group.fault)
        before = seen.get(group.name)
        seen[group.name] = bool(before) or is_picture
        if seen[group.name]:
            yield shown(f"{shard}:{group.name}"), TWICE if before is not None else partial(_read, group)


def _read(group: Group) -> Read:
    return group.note(), group.content


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None
    content = stream.read()
    if len(content) < member.size:
        raise tarfile.ReadError("it breaks off inside a picture")
    return content


def _opened(shard: str) -> Any:
    """A binary stream. Raises `HartError`."""
    if not is_remote(shard):
        return open_regular(local_path(shard))
    from webdataset.gopen import Pipe, gopen

    try:
        stream = gopen(shard)
    except Exception as error:  # every scheme has its own kinds
        raise HartError(f"shard {shard} cannot be opened: {one_line(error)}") from None
    if isinstance(stream, Pipe):
        stream.ignore_errors = True  # its exit status is judged by us, once, whenever it comes
    return stream


def _require_arrival(shard: str, stream: Any, broken: bool) -> None:
    """A download that failed is no damage to skip: another run would see other pictures. Raises `HartError`."""
    from webdataset.gopen import Pipe

    if not isinstance(stream, Pipe):
        return
    if broken:
        stream.stream.close()
    else:
        stream.stream.read()
    status = stream.proc.wait()
    # 141, 23 and SIGPIPE: the reader closed first, which it does after damage inside the file
    if status and not (broken and status in {141, 23, -signal.SIGPIPE}):
        raise HartError(f"shard {shard} did not arrive: its download ended with status {status}; is the address right?")
