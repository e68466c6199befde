"""Prompt files of benchmarks: where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hart.errors import HartError
from hart.evaluation.downloads import cached_file
from hart.files import FileError, read_text, user_path


@dataclass(frozen=True)
class PublishedFile:
    """benchmark: its name. name: of the file. address: its public home. prompts: how many it has."""

    benchmark: str
    name: str
    address: str
    prompts: int


def located(published: PublishedFile, given: Path | None, cache: Path | None = None) -> Path:
    """The file on this machine: `given`, or the one of its name in the folder `given`; with None fetched once.

    cache: where it is kept; the user's cache folder by default. Raises `HartError` that names the address.
    """
    if given is not None:
        given = user_path(given)
        file = given / published.name if given.is_dir() else given
        if not file.is_file():
            raise HartError(f"{file}: no such file: fetch it from {published.address}")
        return file
    return cached_file(published.address, f"fetch {published.name} elsewhere and give it with --data", cache=cache)


def read_prompt_file(file: Path) -> str:
    """Raises `HartError` for what is no UTF-8 text."""
    try:
        return read_text(file)
    except FileError as error:
        raise HartError(f"{error}: give the file as it is published") from None
