"""What the commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from io import StringIO

import pytest

from hart.commands.console import note, notes_to, progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_names_of_files_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress("loading a [b] [/c]") as report:
        report(1, 2, "reconstructing [/d].png")
    assert "reconstructing [/d].png" in terminal.getvalue()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
def test_a_line_on_a_terminal_stands_alone_not_behind_the_bar() -> None:
    program = """if True:
        from pathlib import Path
        from hart.commands.console import note, print_path, progress
        with progress("loading") as report:
            report(1, 2, "generating")
            print_path(Path("a") / ("long-" * 30 + "name.png"))
            note("a remark")
            report(2, 2, "generating")
    """
    ours, theirs = os.openpty()
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=terminal)
    os.close(theirs)
    written = b""
    with suppress(OSError):  # the terminal has no other end any more
        while part := os.read(ours, 4096):
            written += part
    os.close(ours)
    assert process.wait(60) == 0
    assert b"generating" in written
    for line in (b"a/" + b"long-" * 30 + b"name.png", b"note: a remark"):
        assert b"\r\x1b[1A\x1b[2K" + line + b"\r\n" in written, "above the bar, which was erased, and in one piece"


def test_there_is_no_bar_where_it_could_not_disappear(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with progress("loading") as report:
        report(1, 2, "generating")
    assert not terminal.getvalue()


def test_notes_go_to_whoever_listens(capsys: pytest.CaptureFixture[str]) -> None:
    told = list[str]()
    with notes_to(told.append):
        note("of\n a worker")
    note("of\n the terminal")
    assert told == ["of a worker"] and capsys.readouterr().err == "note: of the terminal\n"
