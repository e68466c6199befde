"""What is installed: pip and uv get the same versions, and messages name the package as it is published."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hart.errors import DISTRIBUTION, missing_package

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
ASKED = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
PINNED = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
UNPINNED = {"wandb"}
"""Not installed for the tests."""


def named(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def test_uv_and_pip_install_the_same_versions() -> None:
    for_uv = PYPROJECT["tool"]["uv"]["constraint-dependencies"]
    assert set(for_uv) <= set(PINNED)
    assert {named(one) for one in ASKED} - {named(one) for one in for_uv} == UNPINNED | {DISTRIBUTION}


def test_all_that_is_installed_with_the_extras_is_pinned() -> None:
    todo = [Requirement(one) for one in ASKED if named(one) not in UNPINNED | {DISTRIBUTION}]
    found = set[str]()
    read = set[str]()
    while todo:
        one = todo.pop()
        if str(one) in read:
            continue
        read.add(str(one))
        try:
            installed = distribution(one.name)
        except PackageNotFoundError:  # of other machines, or of extras that are left out here
            continue
        found.add(named(one.name))
        if one.name == "torch":  # pins its own, and which there are depends on the build
            continue
        needs = [Requirement(text) for text in installed.requires or []]
        todo += [
            need
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras))
        ]
    assert "torch" in found and found <= {named(line) for line in PINNED}


def test_an_environment_of_uv_has_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.errors.find_spec", {"pip": None}.__getitem__)
    assert str(missing_package("ray", "ray")) == f"ray is not installed: run uv pip install '{DISTRIBUTION}[ray]'"


def test_pages_install_the_versions_that_were_tested() -> None:
    """In ComfyUI's environment its own versions stay."""
    for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("benchmarks/*.py")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if re.search(rf"pip install .*({DISTRIBUTION}|-e )", line) and line != "pip install -e .":
                assert "pip install -c constraints.txt -e" in line, f"{file}: {line}"


def test_messages_name_the_published_package() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert str(missing_package("accelerate", "train")).endswith(f" pip install '{DISTRIBUTION}[train]'")
    for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py")):
        assert not re.search(r"pip install ['\"]?hart\b(?!-)", file.read_text(encoding="utf-8")), file
