"""What the pages say is there: files, links, commands with their options, keys of recipes."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from hart.cli import app
from hart.config import HartConfig
from hart.evaluation.suites.core import SUITES
from hart.serving.options import ServeOptions
from hart.training import TokenizerRecipe, TransformerRecipe
from helpers import unpadded

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "benchmarks/*.md",
        "integrations/*.md",
        "tests/golden/*.md",
        "projects/*/README.md",
        "projects/*/docs/*.md",
        "src/hart/models/*/*.md",
    )
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(hart [a-z][^`]*)`")
FILE = re.compile(r"`([\w./-]+\.(?:py|md|toml|txt|jsonl?))`")
MADE = {"changelog.md", "contributing.md", "reference"}
"""Pages that only the site has (docs/site_pages.py)."""
RECIPES = {"tokenizer": TokenizerRecipe, "transformer": TransformerRecipe}
TABLES = runpy.run_path(str(ROOT / "docs" / "reference_tables.py"))


def commands(text: str) -> Iterator[list[str]]:
    """Calls of `hart` in a page, as words."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *INLINE.findall(text)]:
        words = shlex.split(line, comments=True)
        if "hart" in words[:3] and "pip" not in words:
            yield words[words.index("hart") + 1 :]


def refused(words: list[str]) -> str:
    """What is wrong with a call: a command or an option that is not there, or a key of a recipe."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("hart", [], resilient_parsing=True)
    stage = ""
    while hasattr(command, "list_commands") and words and not words[0].isupper():
        name, *words = words
        if name.startswith("-"):
            return ""
        found = command.get_command(context, name)
        if found is None:
            return f"no command {name}"
        command, stage = found, name
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        flag = word.split("=")[0]
        if flag.startswith("-") and flag not in known | {"--help"}:
            return f"no option {flag}"
    if stage == "train" and words and words[0] in RECIPES:
        keys = {key for key, *_ in TABLES["key_table"](RECIPES[words[0]])}
        given = {word.split("=")[0] for word in words if re.match(r"[a-z_.]+=", word)}
        if unknown := given - keys:
            return f"no keys {unknown}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = [f"{' '.join(words)}: {said}" for words in commands(text) if (said := refused(words))]
    for link in LINK.findall(text):
        if "://" not in link and not (page.parent / link).exists() and link.split("/")[0] not in MADE:
            wrong.append(f"link to {link}")
    places = (ROOT, ROOT / "src" / "hart", page.parent, page.parent.parent)
    modules = [name for name in FILE.findall(text) if name.endswith(".py")]
    wrong += [f"file {name}" for name in modules if not any((place / name).exists() for place in places)]
    assert not wrong


@pytest.mark.parametrize("page", ["README.md", "docs/where.md", "docs/architecture.md"])
def test_files_of_the_package_are_where_a_page_says(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    places = (ROOT, ROOT / "src" / "hart")
    made = {"config.json", "figures.json"}
    assert not [
        name for name in FILE.findall(text) if name not in made and not any((p / name).exists() for p in places)
    ]
    folders = re.findall(r"^[├└]── (\w+/)", text, re.MULTILINE)
    assert not [name for name in folders if not (ROOT / "src" / "hart" / name).is_dir()]


def test_the_reference_of_keys_has_all_that_is_declared() -> None:
    rows = {row[0]: row for row in TABLES["key_table"](TokenizerRecipe)}
    assert rows["trainer.steps"][1:4] == ("integer", "required", "1 to 1,000,000,000")
    assert rows["optimizer.beta1"][1:4] == ("number", "0.9", "at least 0, below 1")
    assert rows["trainer.precision"][1:4] == ("text", '"float32"', '"float32", "bfloat16"')
    assert rows["perceptual.files"][1:3] == ("list of text", "[]")
    assert rows["optimizer.final_weight_decay"][2] == "none"
    assert rows["loss.reconstruction"][4] == "Weight of the mean absolute error (L1)."
    assert rows["data"][4].startswith("Images")


def test_every_number_has_bounds() -> None:
    """What is beyond them is a slip or a damaged file. Scales and the version have checks of their own."""
    rows = [row for kind in (HartConfig, *RECIPES.values(), ServeOptions) for row in TABLES["key_table"](kind)]
    numbers = {name: (kind, allowed) for name, kind, _, allowed, _ in rows if re.search("integer|number", kind)}
    assert {name for name, (_, allowed) in numbers.items() if not allowed} == {
        "tokenizer.scales", "tokenizer.base_scales", "transformer.scales", "format_version",
    }  # fmt: skip
    endless = {name for name, (kind, allowed) in numbers.items() if kind == "integer" and allowed.startswith("at l")}
    assert endless == {"adversarial.start_step", "max_pixels", "max_steps", "replicas"}


def test_the_reference_lists_every_option_of_every_suite() -> None:
    page = unpadded(TABLES["suites_reference"]())
    for name in SUITES:
        assert f"## {name}\n" in page
    assert "| `--gumbel-smoothing/--no-gumbel-smoothing` | `None` | " in page and "| `--data` | required | " in page
    assert "| `--batch-size` | `(1, 8)` | " in page
