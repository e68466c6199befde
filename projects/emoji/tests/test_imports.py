"""The project uses hart as anybody would: through its public modules and their public names."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PUBLIC = {"hart"} | {
    f"hart.{room}"
    for room in ("checkpoint", "commands", "data", "evaluation", "files", "text_encoder", "tokenizer", "training")
}


def test_only_public_names_of_hart_are_imported() -> None:
    for file in PROJECT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "hart" for alias in node.names), f"{file}: import names"
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hart":
                assert node.module in PUBLIC, file
                assert {alias.name for alias in node.names} <= set(import_module(node.module).__all__), file
