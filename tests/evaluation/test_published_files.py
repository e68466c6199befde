"""Prompt files: taken where they are given, fetched once where they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hart.errors import HartError
from hart.evaluation import published_files
from hart.evaluation.published_files import located
from hart.evaluation.suites.geneval import PROMPTS


def test_a_given_file_or_its_folder(tmp_path: Path) -> None:
    file = tmp_path / PROMPTS.name
    with pytest.raises(HartError, match=r"no such file: fetch it from https://raw\.githubusercontent\.com/djghosh13"):
        located(PROMPTS, tmp_path)
    file.write_text("{}")
    assert located(PROMPTS, tmp_path) == located(PROMPTS, file) == file


def test_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_files, "default_cache", lambda: tmp_path / "cache")
    home = tmp_path / PROMPTS.name
    home.write_text("published")
    published = replace(PROMPTS, address=home.as_uri())
    file = located(published, None)
    assert file.read_text() == "published" and file.name == PROMPTS.name
    home.unlink()
    assert located(published, None) == file
    file.unlink()
    with pytest.raises(HartError, match=r"cannot be fetched \(") as error:
        located(published, None)
    assert "--data" in str(error.value)
