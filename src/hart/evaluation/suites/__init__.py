"""The suites of `hart evaluate`, one file each, declared with what is in `base`.

Other packages add theirs as entry points of the group `hart.suites`: NAME = "package.module:SUITE".
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hart.evaluation.suites.base import Suite

CORE = ("tokenizer", "generation", "geneval", "dpg", "mjhq", "coco", "imagenet", "cost")


def suite_places() -> dict[str, str]:
    """Name of every suite -> "module:variable", where it is declared."""
    others = {entry.name: entry.value for entry in entry_points(group="hart.suites")}
    return others | {name: f"{__name__}.{name}:SUITE" for name in CORE}


def load_suite(place: str) -> Suite[Any]:
    """The suite declared there."""
    module, _, variable = place.partition(":")
    suite: Suite[Any] = getattr(import_module(module), variable)
    return suite
