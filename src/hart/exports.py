"""Public names of a package, imported on first use, so that importing the package is quick."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package, whose names are those its source imports for type checkers.

    if TYPE_CHECKING:
        from hart.config import HartConfig, SamplingConfig
    __all__ = ["HartConfig", "SamplingConfig"]
    __getattr__, __dir__ = lazy(__name__)
    """
    homes = {
        alias.name: statement.module
        for block in ast.parse(inspect.getsource(sys.modules[package])).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
