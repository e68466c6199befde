"""Griffe extension of the documentation site: turns what docstrings say about arguments into lists.

size: pixels of a side. flip: whether      - **size**: pixels of a side.
images are mirrored. Raises `HartError`    - **flip**: whether images are mirrored.
for a size below 1.
                                           Raises `HartError` for a size below 1.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMES = r"[a-z_]\w*(?:, ?\w+)*: "
FIRST_ITEM = re.compile(rf"^{NAMES}", re.MULTILINE)
NEXT_ITEM = re.compile(rf"(?<=[.;]) (?={NAMES})")
RAISES = re.compile(r"(?<=\.)\s+(?=Raises `)")


def listed(text: str) -> str:
    """Return a docstring as Markdown."""
    return "\n\n".join(_paragraph(part) for part in text.split("\n\n"))


def _paragraph(text: str) -> str:
    first = FIRST_ITEM.search(text)
    if first is None or text.startswith("    "):
        return RAISES.sub("\n\n", text)
    head, words = text[: first.start()].rstrip(), " ".join(text[first.start() :].split())
    arguments, *raises = RAISES.split(words, maxsplit=1)
    items = [f"- **{item.replace(': ', '**: ', 1)}" for item in NEXT_ITEM.split(arguments)]
    return "\n\n".join(part for part in (head, "\n".join(items), *raises) if part)


class Docstrings(griffe.Extension):
    """Changes docstrings before rendering, except those of attributes, which have no arguments."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_attribute:
            obj.docstring.value = listed(obj.docstring.value)
