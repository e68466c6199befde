"""`hart-emoji`: what cannot be written is said before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hart_emoji.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("known-words", "emoji", "--wordnet", "absent"), "emoji: no such folder"),
        (("scorer", "emoji", "--data", "absent"), "emoji: no such folder"),
        (("names", "."), "is a folder: give a file"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_done(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2 and said in result.stderr
    assert not list(tmp_path.iterdir())
