"""Prompt files: taken where they are given, fetched once where they are not; parts of them are spread over tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from hart.errors import HartError
from hart.evaluation.alignment.geneval_rules import PROMPTS
from hart.evaluation.alignment.prompt_files import located, spread


def test_a_given_file_or_its_folder(tmp_path: Path) -> None:
    file = tmp_path / PROMPTS.name
    with pytest.raises(HartError, match=r"no such file: fetch it from https://raw\.githubusercontent\.com/djghosh13"):
        located(PROMPTS, tmp_path)
    file.write_text("{}")
    assert located(PROMPTS, tmp_path) == located(PROMPTS, file) == file


def test_fetched_once(tmp_path: Path) -> None:
    home = tmp_path / "home.jsonl"
    home.write_text("published")
    published = replace(PROMPTS, address=home.as_uri())
    file = located(published, None, tmp_path / "cache")
    assert file.read_text() == "published" and file.name == PROMPTS.name
    home.unlink()
    assert located(published, None, tmp_path / "cache") == file
    with pytest.raises(HartError, match="cannot be fetched from file:") as error:
        located(published, None, tmp_path / "other")
    assert "--data" in str(error.value)


def test_a_part_has_as_many_of_each_task_as_can_be() -> None:
    tags = ["a"] * 10 + ["b"] * 3 + ["c"] * 10
    rows = spread(tags, 12, seed=1)
    assert rows == sorted(set(rows))
    assert sorted(Counter(tags[row] for row in rows).values()) == [3, 4, 5]
    assert rows == spread(tags, 12, seed=1) != spread(tags, 12, seed=2)
    assert spread(tags, None, 0) == spread(tags, 99, 0) == list(range(23))
