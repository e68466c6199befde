"""A command whose output nobody reads any more does its work."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hart.commands.program import outlive_readers

WORK = """
import sys
from pathlib import Path
from hart.cli import main
from hart.commands.program import outlive_readers
outlive_readers()
for _ in range(1000):
    print("a line that is longer than nothing")
    print("a line that is longer than nothing", file=sys.stderr)
Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize(("closed", "unbuffered"), [("stdout", ""), ("stderr", "1")])
def test_work_goes_on_after_the_reader_is_gone(tmp_path: Path, closed: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    other = "stderr" if closed == "stdout" else "stdout"
    streams = {closed: writer, other: subprocess.PIPE}
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run([sys.executable, "-c", WORK, tmp_path / "file"], env=environment, check=False, **streams)
    os.close(writer)
    assert result.returncode == 0
    assert (tmp_path / "file").read_text() == "done"
    heard = getattr(result, other).decode()
    assert heard.splitlines() == ["a line that is longer than nothing"] * 1000, "no traceback, not even at the end"


def test_names_that_the_terminal_cannot_write_end_nothing() -> None:
    code = "from hart.commands.program import outlive_readers; outlive_readers(); print('кот')\n"
    code += "from pathlib import Path; from hart.commands.console import print_path; print_path(Path('кот.png'))"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert result.stderr == b""
    # a path as the bytes that it is, so that a script finds the file
    assert result.stdout.split() == [rb"\u043a\u043e\u0442", "кот.png".encode()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_the_output_is_named() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "hart", "--version"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 2
    assert result.stderr.decode() == "error: standard output: No space left on device\n"


def test_a_windows_console_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no file of bytes: what is written past it comes out in another encoding."""

    class Console(io.RawIOBase):
        def writable(self) -> bool:
            return True

    console = io.TextIOWrapper(io.BufferedWriter(Console()), "utf-8")  # type: ignore[arg-type]
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, console)
    outlive_readers()
    assert sys.stdout is sys.stderr is console
