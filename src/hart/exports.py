"""Public names of a package, imported on first use, so that importing the package is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

        if TYPE_CHECKING:
            from hart.config import HartConfig, SamplingConfig
        __all__ = ["HartConfig", "SamplingConfig"]
        __getattr__, __dir__ = lazy(__name__, {"hart.config": "HartConfig SamplingConfig"})

    table: module -> its public names, with spaces between them. Type checkers and readers see the imports, everyone
        sees `__all__`; tests/test_exports.py checks that the three agree.
    """
    homes = {name: module for module, names in table.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
