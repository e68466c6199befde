"""Finds which emoji an icon shows by matching the icon sets' names with Unicode names and keywords.

A concept is an emoji without its skin tone. It is named by the slug of its Unicode (CLDR) name: "red-apple".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hart_emoji.data.words import ALIASES

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
"""Fitzpatrick modifiers, in the order of their code points."""

GROUPS = (
    "smileys-emotion",
    "people-body",
    "component",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
    "flags",
)
"""Unicode groups by their number in emojibase. Components (hair, skin swatches) are left out."""

_TONE_SUFFIX = re.compile(r"-(medium-light|medium-dark|medium|light|dark)(-skin-tone)?$")
_LONGEST_WORD = 16
_IDENTIFIER = re.compile(r'(?<=\bid=")[^"]+|(?<=url\(#)[^)]+|(?<=href="#)[^"]+')


@dataclass(frozen=True)
class Concept:
    """One emoji without its skin tone.

    label: the Unicode name; group: one of `GROUPS`, or "other" for an icon outside Unicode's list.
    keywords: words that both sources give, so they are likely to describe the image on their own.
    hints: words that only one source gives; they go well beside the name.
    """

    slug: str
    label: str
    group: str
    keywords: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Icon:
    """One icon to render.

    tone: one of `TONES` or None; svg: a complete document; certain: false where the name was guessed.
    """

    concept: Concept
    style: str
    tone: str | None
    svg: str
    certain: bool = True


@dataclass(frozen=True)
class IconSet:
    """An icon set as Iconify stores it: name -> body, name -> alias, code points -> name, and default sizes."""

    icons: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, Any]]
    chars: Mapping[str, str]
    defaults: Mapping[str, Any]

    def same_names(self) -> Iterator[tuple[str, str]]:
        """Yield (alias, name) pairs of the same drawing."""
        for alias, value in self.aliases.items():
            if not set(value) - {"parent", "hidden"}:
                yield alias, value["parent"]

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (name, SVG document) of every icon that is not hidden, including mirrored ones."""
        for name, icon in self.icons.items():
            if not icon.get("hidden"):
                yield name, self._document(icon, flipped=False)
        for alias, value in self.aliases.items():
            if set(value) == {"parent", "hFlip"} and value["hFlip"] and value["parent"] in self.icons:
                yield alias, self._document(self.icons[value["parent"]], flipped=True)

    def has_hyphens(self) -> bool:
        """Return whether the set writes "red-apple" rather than "redapple"."""
        return sum("-" in name for name in self.icons) * 4 > len(self.icons)

    def _document(self, icon: Mapping[str, Any], flipped: bool) -> str:
        left, top, width, height = (
            icon.get(key, self.defaults.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        body = icon["body"]
        if flipped:
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}">{body}</svg>'
        )


Match = tuple[Concept, str | None]
"""Concept and skin tone."""


class NameTable:
    """Every known spelling of an emoji -> `Match`; None stands for an emoji that is left out."""

    def __init__(self, entries: Iterable[Mapping[str, Any]], keywords: Mapping[str, list[str]]) -> None:
        self._by_code: dict[str, Match | None] = {}
        self._by_name: dict[str, Match | None] = {}
        for entry in entries:
            concept = _concept(entry, keywords)
            self._by_code[_code(entry["hexcode"])] = match = (concept, None) if concept else None
            self._by_name.setdefault(_slug_of(entry), match)
            for skin in entry.get("skins", ()):
                tone = skin["tone"]
                # Couples with two tones are left out: they multiply the images and add little.
                toned = (concept, TONES[tone - 1]) if concept and isinstance(tone, int) else None
                self._by_code[_code(skin["hexcode"])] = toned
                self._by_name.setdefault(slugify(skin["label"]), toned)

    def learn_codes(self, table: Mapping[str, str | list[str]]) -> None:
        """Add names by code points, such as short codes or the exact names of a set."""
        for hexcode, names in table.items():
            if _code(hexcode) in self._by_code:
                for name in [names] if isinstance(names, str) else names:
                    self._by_name.setdefault(slugify(name), self._by_code[_code(hexcode)])

    def learn_aliases(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Add pairs of names for the same emoji, one of which is already known."""
        pairs = list(pairs)
        for new, known in (*pairs, *((known, new) for new, known in pairs)):
            if known in self._by_name:
                self._by_name.setdefault(new, self._by_name[known])

    def exact(self, chars: Mapping[str, str]) -> dict[str, Match | None]:
        """Return name -> the match according to the set's own code points."""
        return {name: self._by_code[_code(code)] for code, name in chars.items() if _code(code) in self._by_code}

    def look_up(self, name: str) -> Match | None:
        """Match a hyphenated name; an unknown one becomes a concept of its own."""
        for candidate in (name, name.replace("flag-for-flag-", "flag-"), name.replace("flag-for-", "flag-")):
            if candidate in self._by_name:
                return self._by_name[candidate]
        suffix = _TONE_SUFFIX.search(name)
        if suffix:
            base = name[: suffix.start()]
            if known := self._by_name.get(base):
                return known[0], suffix[1]
            if suffix[2]:
                return Concept(base, base.replace("-", " "), "other"), suffix[1]
        return Concept(name, name.replace("-", " "), "other"), None

    def unspaced(self) -> UnspacedNames:
        return UnspacedNames(self._by_name)


class UnspacedNames:
    """Reads names that are written without hyphens, such as "cameraflash"."""

    def __init__(self, known: Mapping[str, Match | None]) -> None:
        self._known = known
        self._joined = {name.replace("-", ""): match for name, match in reversed(list(known.items()))}
        self._words = frozenset(
            word for name in known for word in name.split("-") if len(word) > 2 or word in {"on", "of", "ok"}
        )

    def look_up(self, name: str) -> tuple[Match | None, bool]:
        """Return the match and whether it is certain; an unknown name is split into known words."""
        if name in self._known:
            return self._known[name], True
        if (joined := name.replace("-", "")) in self._joined:
            return self._joined[joined], True
        words = self._split(joined)
        return (Concept("-".join(words), " ".join(words), "other"), None) if words else None, False

    def _split(self, name: str) -> list[str] | None:
        """Return the fewest known words that make up the name, or None."""
        best: list[list[str] | None] = [[]]
        for end in range(1, len(name) + 1):
            options = [
                [*before, name[start:end]]
                for start in range(max(0, end - _LONGEST_WORD), end)
                if (before := best[start]) is not None and name[start:end] in self._words
            ]
            best.append(min(options, key=len, default=None))
        return best[-1]


def catalogue(
    sets: Mapping[str, IconSet],
    entries: list[dict[str, Any]],
    keywords: Mapping[str, list[str]],
    short_codes: Iterable[Mapping[str, str | list[str]]] = (),
) -> list[Icon]:
    """Return every usable icon of the sets, one per (style, concept, tone), sorted by these.

    sets: by style. entries: emojibase's `data.json`. keywords: emojilib, emoji -> words.
    short_codes: emojibase's short codes, hexcode -> codes.
    """
    names = NameTable(entries, keywords)
    for table in short_codes:
        names.learn_codes(table)
    for icon_set in sets.values():
        names.learn_codes(icon_set.chars)
    names.learn_aliases(ALIASES.items())
    for icon_set in sets.values():
        names.learn_aliases(icon_set.same_names())
    unspaced = names.unspaced()

    found: dict[tuple[str, str, str], Icon] = {}
    for style, icon_set in sets.items():
        exact = names.exact(icon_set.chars)
        hyphens = icon_set.has_hyphens()
        for name, svg in icon_set.documents():
            certain = True
            if name in exact:
                match = exact[name]
            elif hyphens:
                match = names.look_up(name)
            else:
                match, certain = unspaced.look_up(name)
            if match is not None:
                concept, tone = match
                found.setdefault((style, concept.slug, tone or ""), Icon(concept, style, tone, svg, certain))
    return list(_without_false_tones(found[key] for key in sorted(found)))


def drawing(svg: str) -> str:
    """Return the document without its identifiers, so that equal drawings compare equal."""
    return _IDENTIFIER.sub("", svg)


def slugify(text: str) -> str:
    """ "Piñata: A & B" -> "pinata-a-b"; pure ASCII, so it can be a file name."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _without_false_tones(icons: Iterable[Icon]) -> Iterator[Icon]:
    """Drop skin tones that look like the plain emoji or another tone; the plain emoji comes first."""
    seen: set[tuple[str, str, str]] = set()
    for icon in icons:
        key = (icon.style, icon.concept.slug, drawing(icon.svg))
        if icon.tone is None or key not in seen:
            yield icon
        seen.add(key)


def _concept(entry: Mapping[str, Any], keywords: Mapping[str, list[str]]) -> Concept | None:
    """Return the concept of an emojibase entry, or None for a component."""
    if "group" not in entry or GROUPS[entry["group"]] == "component":
        return None
    tags = _clean(entry.get("tags", ()))
    # emojilib lists an emoji without the presentation selector where Unicode has none by default.
    emoji = entry["emoji"]
    words = _clean(keywords.get(emoji) or keywords.get(emoji.replace("\ufe0f", "")) or ())
    agreed = tuple(word for word in tags if word in words)
    hints = tuple(word for word in dict.fromkeys([*words, *tags]) if word not in agreed)
    return Concept(_slug_of(entry), entry["label"], GROUPS[entry["group"]], agreed, hints)


def _code(hexcode: str) -> str:
    # Some sources write the emoji presentation selector, others leave it out.
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _clean(words: Iterable[str]) -> list[str]:
    """Keep plain lower-case words and short phrases; drop emoticons, codes and numbers."""
    kept = (word.strip().lower().replace("_", " ").replace("\u2019", "'") for word in words)
    return list(dict.fromkeys(word for word in kept if re.fullmatch(r"[a-z][a-z' -]+[a-z]", word)))


def _slug_of(entry: Mapping[str, Any]) -> str:
    label = entry["label"]
    if label.startswith("keycap: "):
        label = label.replace("#", "hash").replace("*", "asterisk")
    return slugify(label)
