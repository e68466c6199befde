"""Griffe extension of the documentation site: lists of arguments in docstrings become lists on the page.

size: pixels of a side.            - **size**: pixels of a side.
    More about it.         ->
Raises `HartError` for ...         Raises `HartError` for ...
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"^(\w+(?:, ?\w+)*): (?=\S)")
PARAGRAPH = re.compile(r"^(Raises|Returns|Shapes:)\b")


def listed(text: str) -> str:
    """A docstring with a list item for every line `name: what it is`, and a paragraph for what it raises or returns."""
    lines: list[str] = []
    in_list = False
    for line in text.splitlines():
        if line.startswith("    ") and in_list:
            lines.append(f"    {line.strip()}")
        elif ARGUMENT.match(line) and not PARAGRAPH.match(line):
            if not in_list:
                lines.append("")
            in_list = True
            lines.append(ARGUMENT.sub(r"- **\1**: ", line))
        else:
            if line and (in_list or PARAGRAPH.match(line)):
                # a line that goes on with the item above it begins in lower case
                if in_list and line[0].islower():
                    lines.append(f"    {line}")
                    continue
                lines.append("")
                in_list = False
            lines.append(line)
    return "\n".join(lines)


class Docstrings(griffe.Extension):
    """Changes docstrings of functions, classes and modules before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_attribute:
            obj.docstring.value = listed(obj.docstring.value)
