"""`hart-emoji`: what cannot be written is said before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hart_emoji.cli import app
from hart_emoji.scene_options import KINDS


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


def test_the_kinds_of_scenes_are_named_where_they_are_chosen() -> None:
    said = " ".join(CliRunner().invoke(app, ["scenes", "--help"]).stdout.split())
    assert f"of {', '.join(KINDS)}, such as" in said
