"""Who may import whom, and where third-party packages may be used: the tables of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import hart

ROOT = Path(hart.__file__).parent
DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
FOR_ALL = ("errors", "exports", "files")  # each stands on the ones before it


def table(header: str) -> dict[str, frozenset[str]]:
    """Rows of the document's table under this header: the name in the first cell -> the names in the second."""
    rows = DOCUMENT.read_text(encoding="utf-8").split(header)[1].split("\n\n")[0].splitlines()[2:]
    cells = [row.strip("|").split("|") for row in rows]
    return {re.findall("`(.+?)`", first)[0]: frozenset(re.findall("`(.+?)`", second)) for first, second in cells}


ALLOWED = {"errors": frozenset[str]()} | {
    part: names | set(FOR_ALL[: FOR_ALL.index(part)] if part in FOR_ALL else FOR_ALL)
    for part, names in table("| part | may import |").items()
}
CONFINED = table("| package | where |")


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def imports(file: Path) -> frozenset[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative imports hide where a name is from"
            names.add(node.module)
    return frozenset(names)


def own_parts(file: Path) -> set[str]:
    names = [name.split(".") for name in imports(file)]
    return {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "hart"} - {part_of(file)}


FILES = sorted(ROOT.rglob("*.py"))


def test_every_part_is_in_the_table() -> None:
    assert {part_of(file) for file in FILES} == set(ALLOWED)


def test_a_part_imports_only_what_the_table_allows() -> None:
    assert not {str(file): extra for file in FILES if (extra := own_parts(file) - ALLOWED[part_of(file)])}


def test_the_table_has_no_circles() -> None:
    done: set[str] = set()
    # the package itself offers the pipeline's names, and the version to everything above it
    remaining = {part: allowed - {"__init__"} for part, allowed in ALLOWED.items()}
    while ready := {part for part, needs in remaining.items() if part not in done and needs <= done}:
        done |= ready
    assert done == set(ALLOWED)


def test_third_party_packages_stay_in_their_place() -> None:
    for package, allowed in CONFINED.items():
        users = {file for file in FILES if package in {name.split(".")[0] for name in imports(file)}}
        assert {file.relative_to(ROOT).as_posix() for file in users if part_of(file) not in allowed} <= allowed, package


def test_the_configuration_needs_no_torch() -> None:
    """Sizes can be read and checked without waiting for PyTorch."""
    light = [
        ROOT / name
        for name in ("errors.py", "grids.py", "config.py", "presets.py", "losses/config.py", "training/config.py")
    ]
    assert not any("torch" in {name.split(".")[0] for name in imports(file)} for file in light)
