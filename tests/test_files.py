"""A file is replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from hart.files import atomic_write


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_file_replaces_the_old_one_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for content in (b"old", b"new"):
        atomic_write(folder / "file", lambda file, content=content: file.write(content))
    assert contents(folder) == {"file": b"new"}


def half_written(file: BinaryIO) -> None:
    file.write(b"ha")
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "file", half_written)
    assert contents(tmp_path) == {"file": b"old"}


def test_a_full_disk_is_noticed_before_the_old_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        atomic_write(tmp_path / "file", lambda file: file.write(b"new"))
    assert contents(tmp_path) == {"file": b"old"}
