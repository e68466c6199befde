"""Emoji in prompts, read as their names: "a 🐸" is "a frog". The names are those in the emoji data set's captions.

Each line of `emoji_names.txt`, which `projects/emoji` writes, is an emoji without variation selectors and skin tones,
and its name.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

JOINER = "\u200d"
TONES = dict(zip("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff",
                 ("light", "medium-light", "medium", "medium-dark", "dark"), strict=True))  # fmt: skip
SELECTORS = "\ufe0e\ufe0f"
"""Variation selectors: show the character before as text, or as an emoji."""
TEXT_SYMBOLS = "©®™"
"""Symbols that are emoji only with a selector."""
LETTERS, TAGS = "\U0001f1e6-\U0001f1ff", "\U000e0020-\U000e007f"
_MARKS = dict.fromkeys(map(ord, SELECTORS + "".join(TONES)))


def named_emoji(text: str) -> str:
    """Return `text` with every emoji replaced by its name; those not in the table stay."""
    if text.isascii() or not _pattern().search(text):
        return text
    return " ".join(_pattern().sub(lambda match: _name(match[0]), text).split())


@functools.cache
def _names() -> dict[str, str]:
    lines = files("hart.text_encoder").joinpath("emoji_names.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Match flags, keycaps, and emoji of one character or several joined ones, with all their marks."""
    first = {part[0] for emoji in _names() for part in emoji.split(JOINER)} - set("0123456789#*")
    letters = {character for character in first if re.match(f"[{LETTERS}]", character)}
    emoji = f"[{re.escape(''.join(sorted(first - letters)))}][{SELECTORS}]?[{''.join(TONES)}]?[{TAGS}]*"
    return re.compile(f"[{LETTERS}]{{2}}|[0-9#*][{SELECTORS}]?\u20e3|{emoji}(?:{JOINER}{emoji})*")


def _name(emoji: str) -> str:
    """Return the name of a match, with spaces around it; for joined emoji without their own name, all their names."""
    if emoji in TEXT_SYMBOLS:
        return emoji
    plain = emoji.translate(_MARKS)
    names = _names()
    parts = [plain] if plain in names else plain.split(JOINER)
    words = " and ".join(names.get(part) or names.get(part[0], part) for part in parts)
    tones = " and ".join(dict.fromkeys(TONES[mark] for mark in emoji if mark in TONES))
    return f" {words} with {tones} skin tone " if tones else f" {words} "
