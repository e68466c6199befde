"""What is installed: pip and uv get the same versions, and messages name the package as it is published."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from hart.errors import DISTRIBUTION, missing_package

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UNPINNED = {"wandb"}
"""Not installed for the tests."""


def named(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def test_uv_and_pip_install_the_same_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    for_uv = PYPROJECT["tool"]["uv"]["constraint-dependencies"]
    assert set(for_uv) <= set(pinned)
    project = PYPROJECT["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    assert {named(one) for one in asked} - {named(one) for one in for_uv} == UNPINNED | {DISTRIBUTION}


def test_messages_name_the_published_package() -> None:
    assert PYPROJECT["project"]["name"] == DISTRIBUTION
    assert f"pip install '{DISTRIBUTION}[train]'" in str(missing_package("accelerate", "train"))
    for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py")):
        assert not re.search(r"pip install ['\"]?hart\b(?!-)", file.read_text(encoding="utf-8")), file
