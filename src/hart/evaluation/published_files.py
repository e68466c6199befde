"""Files of benchmarks as published: downloaded once from their homes, read from folders or from archives.

Errors about missing files include the address.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import URLError
from urllib.request import Request, urlopen

from hart.data.notes import Note
from hart.data.samples import damaged_by
from hart.data.sources import Listed, Located, Source
from hart.errors import HartError
from hart.files import MEBIBYTE, FileError, atomic_write, default_cache, read_bytes, readable_folder, user_path
from hart.hub import is_on_hub, unreachable
from hart.networks.pretrained import short_name
from hart.strict import clipped, reason

HUB_DATASETS = "https://huggingface.co/datasets/"
FILE_LIMIT = 256 * MEBIBYTE
"""Largest file of a benchmark in bytes."""


def at_hand(source: str, data: Path | None) -> str:
    """Return where something public is: below `data` if a file or folder there has its name, else `source` itself.

    source: a hub id or a web address; a path stays as it is. data: the value of `--data`. On a machine without network
    that folder may also hold weights: `clip-vit-large-patch14/` for `openai/clip-vit-large-patch14`.
    """
    if data is not None and (is_on_hub(source) or "://" in source):
        beside = user_path(data) / short_name(source)
        if beside.exists():
            return str(beside)
    return source


def cached_file(address: str, instead: str, *, sha256_prefix: str = "") -> Path:
    """Return the file behind a web address, on this machine; downloaded at the first call.

    instead: what to do without a network, for the error. sha256_prefix: hex digits that its SHA-256 begins with. Raises
    `HartError`.
    """
    file = default_cache() / "evaluation" / short_name(address)
    if not file.exists():
        atomic_write(file, partial(_download, address, instead, sha256_prefix))
    return file


def _download(address: str, instead: str, sha256_prefix: str, file: BinaryIO) -> None:
    """Raise `HartError`, also if less or something else arrives than was sent, which the library does not notice."""
    digest = hashlib.sha256()
    try:
        with urlopen(Request(address, headers={"User-Agent": "hart"})) as response:
            while block := response.read(MEBIBYTE):
                file.write(block)
                digest.update(block)
            length = int(response.headers.get("Content-Length") or file.tell())
        if file.tell() != length:
            raise ValueError(f"it broke off after {file.tell():,} of {length:,} bytes")
        if not digest.hexdigest().startswith(sha256_prefix):
            raise ValueError(f"its SHA-256 does not begin with {sha256_prefix}")
    except (OSError, ValueError, HTTPException) as error:
        why = clipped(error.reason) if type(error) is URLError else reason(error)  # its own text is in brackets
        raise HartError(f"{address}: cannot be fetched ({why}): {instead}") from None


def hub_dataset(repository: str, files: Sequence[str], instead: str) -> Path:
    """Return a folder with these files of a Hugging Face data set, in the hub's own cache; downloaded at the first
    call.

    Raises `HartError` with the data set's address. instead: see `cached_file`.
    """
    why = unreachable()
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository, repo_type="dataset", allow_patterns=list(files), local_files_only=why is not None
        )
    except Exception as error:  # the hub's own errors, and those of the HTTP library below it
        raise HartError(f"{HUB_DATASETS}{repository}: cannot be fetched ({why or reason(error)}): {instead}") from None
    return Path(folder)


@dataclass(frozen=True)
class PublishedFile:
    """benchmark: its name. address: the file's public home. prompts: how many it has, if any."""

    benchmark: str
    address: str
    prompts: int = 0

    @property
    def name(self) -> str:
        return short_name(self.address)


def located(published: PublishedFile, given: Path | None) -> Path:
    """Return the file on this machine: `given`, or the one of its name in the folder `given`; None downloads it once.

    Raises `HartError` that names the address.
    """
    if given is not None:
        given = user_path(given)
        file = given / published.name if given.is_dir() else given
        if not file.is_file():
            raise HartError(f"{file}: no such file: fetch it from {published.address}")
        return file
    return cached_file(published.address, f"fetch {published.name} elsewhere and give it with --data")


@contextmanager
def readable(archive: Path) -> Iterator[None]:
    """In a block, turn errors of reading an archive into `FileError`s, except those that are `HartError`s already."""
    try:
        yield
    except HartError:
        raise
    except Exception as error:  # NumPy and the zip library raise a dozen kinds
        raise FileError(f"{archive}: cannot be read ({reason(error)}): copy or download it again") from None


class PublishedFiles:
    """The files below `folder`/`name`, or else those in the archive `folder`/`archive`; `place` is the one found.

    An archive stays open: listing 30,000 members takes a second.
    """

    def __init__(self, folder: Path, name: str, archive: str, address: str) -> None:
        """Raise `HartError` with the public `address` if neither exists, and for an archive that is damaged."""
        self.place = readable_folder(folder) / name
        self._zip: zipfile.ZipFile | None = None
        if self.place.is_dir():
            return
        self.place = folder / archive
        if not self.place.is_file():
            raise HartError(f"{folder}: has no {name}/ and no {archive}: fetch it from {address}")
        with readable(self.place):
            self._zip = zipfile.ZipFile(self.place)
            # by all endings of their paths: archives differ in how many folders they wrap their content in
            parts = ((member, member.split("/")) for member in self._zip.namelist())
            self._members = {"/".join(path[start:]): member for member, path in parts for start in range(len(path))}

    def has(self, path: str) -> bool:
        """Return whether a file exists, without opening it; `path` as in `read`."""
        if self._zip is not None:
            return path in self._members
        # the names come from a published list, which must not point elsewhere on this machine
        return ".." not in Path(path).parts and not Path(path).is_absolute() and (self.place / path).is_file()

    def read(self, path: str) -> bytes:
        """Return a file's content; `path` below the folder, with "/". Raises `FileError`."""
        if not self.has(path):
            raise FileError(f"{self.place}: no {path} in it")
        if self._zip is None:
            return read_bytes(self.place / path, FILE_LIMIT)
        with readable(self.place):
            member = self._zip.getinfo(self._members[path])
            if member.file_size > FILE_LIMIT:
                raise ValueError(f"{path} is larger than {FILE_LIMIT / MEBIBYTE:g} MiB")
            return self._zip.read(member)


class PublishedImages(Source):
    """Chosen files, only for comparison: nothing is learned from them."""

    def __init__(
        self, files: PublishedFiles, paths: Sequence[str], notes: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """notes: the notes on each image, for `Sample.record`."""
        self._files = files
        self._paths = paths
        self._notes = notes
        super().__init__(str(files.place))

    def records(self) -> Iterator[tuple[int, Callable[[], Listed] | str]]:
        paths = enumerate(self._paths)
        return ((row, Listed if self._files.has(path) else f"no {path} in it") for row, path in paths)

    def name(self, place: int) -> str:
        return f"{self._files.place}: {self._paths[place]}"

    def read_record(self, place: int) -> Located:
        def image() -> bytes:
            with damaged_by(FileError):
                return self._files.read(self._paths[place])

        return Note(record={} if self._notes is None else self._notes[place]), image
