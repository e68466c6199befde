"""The commands of the README where what Windows refuses is refused (`like_windows/sitecustomize.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hart.commands.locks import LOCK_FILE

TESTS = Path(__file__).parent
PATHS = (TESTS / "like_windows", TESTS.parent / "src", TESTS)
REFUSED = {
    "images": {"convert": "already holds a model", "remove": "it is open"},
    "training": {"train transformer": "Permission denied; is it open in another program?"},
    "serving": {"serve": ""},
}
"""What does not end with code 0, and what its last line says: to write a model that is open, and a server at Ctrl-C."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("part", ["images", "training", "serving"])
def test_the_commands_work_or_say_why_not(part: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PATHS)), "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [sys.executable, TESTS / "like_windows" / "commands.py", tmp_path, part],
        env=environment, capture_output=True, text=True, encoding="cp1252", timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["command"]: line["code"] for line in lines if line["code"]} == dict.fromkeys(
        REFUSED[part], {"serving": 130}.get(part, 2)
    )
    for line in lines:
        assert not line["code"] or REFUSED[part][line["command"]] in line["said"]
    assert not list(tmp_path.rglob(LOCK_FILE))
