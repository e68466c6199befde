"""Pictures and texts of a benchmark as it is published: in folders, or in the archive that they come in."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.data.samples import Damage, DamagedSample, Sample, one_line
from hart.errors import HartError
from hart.files import parse_json


class PublishedFiles:
    """The files below `folder`/`name`, or else those of the archive `folder`/`archive`.

    An archive is opened at the first read and stays open: 30,000 members take a second to list.
    """

    def __init__(self, folder: Path, name: str, archive: str, address: str) -> None:
        """Raises `HartError` with the public `address` when neither is there."""
        self._folder = folder / name
        self._archive: Path | None = None
        if not self._folder.is_dir():
            self._archive = folder / archive
            if not self._archive.is_file():
                raise HartError(f"{folder}: has no {name}/ and no {archive}: fetch it from {address}")
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, str] = {}

    @property
    def place(self) -> Path:
        """The folder or the archive."""
        return self._folder if self._archive is None else self._archive

    def read(self, path: str) -> bytes:
        """A file's content; `path` below the folder, with "/", always equally deep. Raises `OSError`."""
        if self._archive is None:
            return (self._folder / path).read_bytes()
        try:
            if self._zip is None:
                self._zip = zipfile.ZipFile(self._archive)
                # archives differ in how many folders they wrap their content in
                depth = path.count("/") + 1
                self._members = {"/".join(name.split("/")[-depth:]): name for name in self._zip.namelist()}
            if path not in self._members:
                raise FileNotFoundError(errno.ENOENT, f"no {path} in it", str(self._archive))
            return self._zip.read(self._members[path])
        except zipfile.BadZipFile as error:
            raise OSError(f"{self._archive}: {one_line(error)}") from None


class PublishedPictures:
    """A `Source` over chosen files. All paths must lie equally deep."""

    classes: tuple[str, ...] = ()
    damaged: tuple[Damage, ...] = ()

    def __init__(
        self, files: PublishedFiles, paths: Sequence[str], records: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """records: what is said about each picture, for `Sample.record`."""
        self._files = files
        self._paths = paths
        self._records = records
        self.description = f"{files.place}: {len(paths):,} pictures"

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def weights(self) -> Tensor:
        return torch.ones(len(self))

    def key(self, row: int) -> str:
        return f"{self._files.place}: {self._paths[row]}"

    def read(self, row: int) -> Sample:
        try:
            image = self._files.read(self._paths[row])
        except OSError as error:
            raise DamagedSample(f"cannot be read ({one_line(error)})") from None
        return Sample(self.key(row), image, record={} if self._records is None else self._records[row])


def read_json(content: bytes, where: str) -> Any:
    """Raises `HartError` for what is no JSON."""
    try:
        return parse_json(content, where)
    except HartError as error:
        raise HartError(f"{error}: fetch it again") from None
