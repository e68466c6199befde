"""Word lists for captions (`words.toml`), and icon names that no other source spells out (`aliases.txt`)."""

from __future__ import annotations

import hashlib
import tomllib
from importlib.resources import files

_FOLDER = files("hart_emoji.data")
_TEXT = _FOLDER.joinpath("words.toml").read_text(encoding="utf-8")
_WORDS = tomllib.loads(_TEXT)
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

EVERYDAY: dict[str, tuple[str, ...]] = {concept: tuple(names) for concept, names in _WORDS["everyday"].items()}
COMMON = frozenset(_WORDS["common"].split())
NO_ARTICLE = frozenset(" ".join(name.split()) for name in _WORDS["no_article"].split(","))
UNCOUNTABLE, PROPER, VAGUE = (frozenset(_WORDS[name].split()) for name in ("uncountable", "proper", "vague"))
DIGEST = hashlib.sha256(_TEXT.encode()).hexdigest()
"""SHA-256 of `words.toml`, on which the captions depend."""

ALIASES: dict[str, str] = {
    **{f"digit-{word}": f"keycap-{number}" for number, word in enumerate(_DIGITS)},
    **{f"clock{hour}oclock": f"{word}-oclock" for hour, word in enumerate(_HOURS, 1)},
    **{f"clock{hour}thirty": f"{word}-thirty" for hour, word in enumerate(_HOURS, 1)},
    **dict(line.split() for line in _FOLDER.joinpath("aliases.txt").read_text(encoding="utf-8").splitlines()),
}
"""Icon name -> slug of the Unicode name. Mostly the Firefox OS set, which writes its names without hyphens."""
