"""What the commands share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Barrier

import pytest

from hart.commands.console import note, notes_to, progress
from waiting import PATIENCE


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


def test_there_is_no_bar_where_it_could_not_disappear(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with progress("loading") as report:
        report(1, 2, "generating")
    assert not terminal.getvalue()


def test_each_thread_has_its_own_listener_to_notes(capsys: pytest.CaptureFixture[str]) -> None:
    both_listen = Barrier(2, timeout=PATIENCE)

    def heard(text: str) -> list[str]:
        told = list[str]()
        with notes_to(told.append):
            both_listen.wait()
            note(text)
            both_listen.wait()
        return told

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(heard, ["of the first", "of the second"])) == [["of the first"], ["of the second"]]
    note("of\n the terminal")
    assert capsys.readouterr().err == "note: of the terminal\n"
