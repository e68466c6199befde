"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

import pytest

from hart.commands.console import owned
from hart.commands.locks import LOCK_FILE, locked
from hart.errors import HartError
from lock_processes import hold_and_die, try_lock
from processes import CONTEXT
from waiting import PATIENCE


def test_of_several_at_the_same_moment_one_works_and_the_others_are_told_by_whom(tmp_path: Path) -> None:
    barrier, results = CONTEXT.Barrier(3), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=try_lock, args=(str(tmp_path), barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    said = dict(results.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join(PATIENCE)
    (owner,) = [pid for pid, message in said.items() if not message]
    refusals = [message for message in said.values() if message]
    assert len(refusals) == 2
    holder = f"process {owner} on {socket.gethostname()} since 20"
    for message in refusals:  # the one that has it may be held up before it says so
        assert re.match(f"{tmp_path}: training is already running there, by ({holder}|another process)", message)
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=hold_and_die, args=(str(tmp_path),))
    process.start()
    process.join(PATIENCE)
    assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {process.pid} on {socket.gethostname()} since 20")
    with locked(tmp_path, "training") as has_lock:
        assert has_lock
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(HartError, match=f"by process {os.getpid()} on"), locked(tmp_path, "training"):
            pass
        with locked(tmp_path, "encoding", f"{LOCK_FILE}-other") as other:
            assert other, "another name is another lock"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_holds_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with (
        pytest.raises(HartError, match=rf"{tmp_path}/{LOCK_FILE}: .*No space left.*: make room"),
        locked(tmp_path, "x"),
    ):
        pass
    monkeypatch.undo()
    with locked(tmp_path, "training"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path: Path) -> None:
    out, empty = tmp_path / "runs" / "one", tmp_path / "empty"
    empty.mkdir()
    for folder in (out, empty):
        with owned(folder, "training"):
            assert folder.is_dir()
    assert list(tmp_path.iterdir()) == [empty], "nor are those above it; one that was there stays"
    with owned(out, "training"):
        (out / "result").touch()
    assert list(out.iterdir()) == [out / "result"]


def test_a_drive_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path, "training") as has_lock:
        assert not has_lock


def test_what_somebody_put_in_the_place_of_a_lock_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "precious")
    with pytest.raises(HartError, match="remove it"), locked(tmp_path, "training"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
