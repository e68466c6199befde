"""Files are read within bounds, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from hart.files import (
    FileError,
    all_or_nothing,
    atomic_write,
    default_cache,
    read_bytes,
    read_json,
    read_text,
    read_toml,
    require_own_folder,
    write_json,
)


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


def test_what_exists_is_not_written_over_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    atomic_write(file, lambda stream: stream.write(b"first"), overwrite=False)
    with pytest.raises(FileExistsError):
        atomic_write(file, lambda stream: stream.write(b"second"), overwrite=False)
    assert contents(tmp_path) == {"file": b"first"}


@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_of_a_new_file_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Without hard links, as on FAT drives, too."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError))

    def while_another_writes(file: BinaryIO) -> None:
        file.write(b"late")
        (tmp_path / "file").write_bytes(b"early")

    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "file", while_another_writes, overwrite=False)
    assert contents(tmp_path) == {"file": b"early"}


def test_a_folder_that_cannot_be_flushed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows opens no folders, and some network drives refuse to flush them."""
    opened, flushed = os.open, os.fsync

    def no_folders(path: Path, *arguments: int) -> int:
        if Path(path).is_dir():
            raise PermissionError
        return opened(path, *arguments)

    def no_flushing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError("invalid argument")
        flushed(handle)

    for name, value in (("open", no_folders), ("fsync", no_flushing)):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, value)
            atomic_write(tmp_path / name, lambda file: file.write(b"whole"))
    assert contents(tmp_path) == {"open": b"whole", "fsync": b"whole"}


UNREADABLE = {
    "absent": (None, "no such file"),
    "nested": (b"[" * 100_000, "nested too deeply"),
    "cut": (b'{"a": 1', "is not"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8"),
    "endless number": (b'{"a": ' + b"9" * 10_000 + b"}", "is not"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_text_is_one_line_that_names_the_file(tmp_path: Path, case: str) -> None:
    content, reason = UNREADABLE[case]
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FileError, match=reason) as caught:
        read_json(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileError):
        read_toml(file)


def test_names_that_are_not_utf8_are_written_as_json_and_read_back(tmp_path: Path) -> None:
    values = {"café \udce9": ["\udcff.png", "🐸\n"]}  # as os.fsdecode gives them
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == values
    assert "café \\udce9" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/zero"), tmp_path / "fifo", tmp_path):
        with pytest.raises(FileError, match=re.escape(str(path))):
            read_text(path)
    with pytest.raises(FileError, match="is a folder: give a file"):
        read_text(tmp_path)
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", limit=5) == b"12345"
    with pytest.raises(FileError, match="larger than"):
        read_bytes(tmp_path / "large", limit=4)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_own_folder(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root
    with pytest.raises(FileError, match="no permission to read it"):
        require_own_folder(tmp_path)


def test_a_home_folder_of_hidden_files_is_no_place_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".profile").touch()
    require_own_folder(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.raises(FileError, match="is your home folder: give an empty or a new folder"):
        require_own_folder(tmp_path)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="they have folders of their own")
@pytest.mark.parametrize(
    ("named", "expected"), [("/cache", "/cache/hart"), ("", "/home/me/.cache/hart"), ("here", "/home/me/.cache/hart")]
)
def test_the_cache_is_no_folder_below_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, named: str, expected: str
) -> None:
    """An empty variable is as one that is not set."""
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache() == Path(expected)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="they have folders of their own")
def test_a_user_without_a_home_is_told_so_only_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_cache() == Path("/cache/hart")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(FileError, match="this user has no home: set HOME"):
        default_cache()


def test_what_fails_leaves_no_folder_above_it_either(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError, match=str(folder / "absent")), all_or_nothing(folder, "last") as written:
        (written / "absent").read_bytes()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_within_appears_too_where_no_folder_can_be_replaced(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    replace = os.replace

    def of_windows(source: Path, target: Path) -> None:
        if Path(target).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", of_windows)
    monkeypatch.setattr(os, "rename", of_windows)
    folder = tmp_path / "model"
    folder.mkdir()
    if fails:
        (folder / "last").touch()
    with suppress(FileExistsError), all_or_nothing(folder, "last") as written:
        (written / "encoder" / "words").mkdir(parents=True)
        for name in ("last", "encoder/one", "encoder/words/two"):
            (written / name).write_text(name)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == ({"last"} if fails else {"last", "encoder/one", "encoder/words/two"})
    assert not fails or [path.name for path in folder.iterdir()] == ["last"]


def test_a_folder_is_named_as_one_where_it_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(FileError, match="is a folder: give a file"):
        read_bytes(tmp_path, 10)
