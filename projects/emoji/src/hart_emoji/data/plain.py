"""Single emoji on white with many wordings of their names, in the default style more often than in any other.

Besides names, templates and keywords, some captions are WordNet nouns that the text encoder places near a name: they
teach the transformer the surroundings of the names. No caption contains a word that the emoji set holds out.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from PIL import Image
from torch.nn import functional as F

from hart import HartError
from hart.data import DamagedSample
from hart.text_encoder import CompactTextEncoder, TextEncoder
from hart_emoji.data.arrangement import laid
from hart_emoji.data.build import STYLES
from hart_emoji.data.captions import DEFAULT_STYLE, captions, head_of, mentions, plain_names, with_article
from hart_emoji.data.catalogue import Icon
from hart_emoji.data.recolour import OwnColour, own_colour
from hart_emoji.data.rewriting import one_thing
from hart_emoji.data.scenes import THINGS, TRIES, WHITE, Describe, EmojiScenes
from hart_emoji.data.words import COMMON
from hart_emoji.text.corpus import read_wordnet

DEFAULT_SHARE = 0.42
"""Share of images in the default style, which is what words without a style mean."""
OTHER_WEIGHT = 0.5
"""Chance of a concept that is not `COMMON`, relative to one of the same group that is."""
GROUP_WEIGHTS = {"symbols": 0.3, "people-body": 0.8, "smileys-emotion": 1.0, "other": 0.4}
NEAREST = 0.62
"""Lowest cosine at which a noun may stand for a name."""
MOST_NOUNS = 6
"""Most nouns per concept."""
KNOWN_THINGS = 12000
"""How many of WordNet's nouns for things are considered, the most used first."""


class PlainEmoji(EmojiScenes):
    """Single emoji, half of them unchanged from the set, half slightly moved."""

    title = "plain emoji"
    wordings = 6

    def __init__(
        self, cache: Path, count: int, *, size: int = 128, seed: int = 0, barred: Collection[str] = ()
    ) -> None:
        super().__init__(cache, count, size=size, seed=seed, barred=barred)
        self.nouns: Mapping[str, Sequence[str]] = {}
        """Slug of a concept -> additional words for it."""
        every = range(len(self.icons))
        self._default = [row for row in every if self.icons[row].style == DEFAULT_STYLE]
        self._other = [row for row in every if self.icons[row].style != DEFAULT_STYLE]
        self.chances = [
            chance * GROUP_WEIGHTS.get(icon.concept.group, 1.0) * (1.0 if icon.concept.slug in COMMON else OTHER_WEIGHT)
            for chance, icon in zip(self.chances, self.icons, strict=True)
        ]

    def digest(self) -> str:
        words = [word for slug in sorted(self.nouns) for word in (slug, *self.nouns[slug])]
        return hashlib.sha256("\n".join([super().digest(), str(DEFAULT_SHARE), *words]).encode()).hexdigest()

    def find_nouns(self, encoder: TextEncoder, wordnet: Path) -> None:
        """Use WordNet nouns as additional words. wordnet: folder of its files. Raises as `nearest_nouns` does."""
        self.nouns = nearest_nouns(self.icons, encoder, wordnet, self._usable)

    def _made(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        default = rng.random() < DEFAULT_SHARE
        icon, moved, sprite = self._drawn(self._default if default else self._other, rng)
        colour = own_colour(sprite) if icon.concept.group in THINGS else None
        if moved:
            sprite = sprite.rotate(rng.uniform(-5, 5), Image.Resampling.BICUBIC, expand=True)
        shift = 0.04 if moved else 0.0
        x, y = (0.5 + rng.uniform(-shift, shift) for _ in range(2))
        return laid(self.size, WHITE, [(sprite, x, y)]), partial(self._told, icon, colour)

    def _drawn(self, rows: Sequence[int], rng: random.Random) -> tuple[Icon, bool, Image.Image]:
        """Return an icon from `rows`, whether it is to be moved, and its image."""
        for _ in range(TRIES):
            icon = self._chosen(rows, rng)
            moved = rng.random() < 0.5
            side = round(self.size * (rng.uniform(0.88, 1.04) if moved else 1))
            with suppress(DamagedSample):  # a blank icon
                return icon, moved, self._sprite(icon, side, 0)
        raise DamagedSample("no icon that can be drawn was found")

    def _usable(self, text: str) -> bool:
        return super()._usable(text) and not mentions(text, self.keywords.held_out)

    def _told(self, icon: Icon, colour: OwnColour | None, rng: random.Random) -> str:
        """Return a caption of an icon. colour: its own colour, if it has one."""
        style, default = STYLES[icon.style].word, icon.style == DEFAULT_STYLE
        every = captions(icon.concept, style, icon.tone, self.keywords, rng)
        if icon.tone is not None or (not default and rng.random() < 0.6):
            return rng.choice(every if default else every[1:])
        names, nouns = plain_names(icon.concept), self.nouns.get(icon.concept.slug, ())
        kind = rng.random()
        if kind < 0.42:
            name = names[0] if rng.random() < 0.5 else rng.choice(names)
            text = name if rng.random() < 0.5 else with_article(name)
        elif kind < 0.62:
            text = one_thing(rng.choice(names), rng)
        elif kind < 0.70 and colour is not None and colour.word:
            text = one_thing(f"{colour.word} {names[0]}" if colour.word not in names[0] else names[0], rng)
        elif kind < 0.88 and nouns:
            noun = rng.choice(nouns)
            text = rng.choice((noun, with_article(noun), one_thing(noun, rng)))
        else:
            text = rng.choice(every)
        return text if default or style in text else self._styled(text, icon.style, rng)


def nearest_nouns(
    icons: Sequence[Icon], encoder: TextEncoder, wordnet: Path, usable: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Return slug -> the usable WordNet nouns whose nearest name belongs to it. Flags and symbols are left out.

    Raises `HartError` if the encoder is no compact text encoder, or WordNet is missing.
    """
    if not isinstance(encoder, CompactTextEncoder):
        raise HartError("a compact text encoder is needed to find nouns: give a model that has one, such as emoji")
    names: dict[str, str] = {}
    for icon in icons:
        if icon.concept.group not in ("flags", "symbols", "other"):
            for name in plain_names(icon.concept):
                names.setdefault(name.lower(), icon.concept.slug)
    known = list(names)
    rank = {piece: place for piece, place in encoder.tokenizer.get_vocab().items() if piece.isalpha()}
    things = [word for word in read_wordnet(wordnet, rank).things[:KNOWN_THINGS] if word not in names and usable(word)]
    if not things or not known:
        return {}

    meanings = [F.normalize(encoder.meanings(texts), dim=1) for texts in (things, known)]
    cosine, place = (meanings[0] @ meanings[1].T).max(dim=1)
    found: defaultdict[str, list[tuple[int, float, str]]] = defaultdict(list)
    for word, near, at in zip(things, cosine.tolist(), place.tolist(), strict=True):
        if near >= NEAREST and may_mean(word.split(), known[at].split()):
            found[names[known[at]]].append((len(word.split()), -near, word))
    return {slug: [word for _, _, word in sorted(words)[:MOST_NOUNS]] for slug, words in found.items()}


def may_mean(noun: Sequence[str], name: Sequence[str]) -> bool:
    """Return whether a near noun may mean a name: it has other words, some of the name's, or is a kind ("house cat").

    If all its words are the name's, it must have the name's last word or the last word of its head ("glass of milk"):
    "kitchen" is no kitchen knife. But "cat" may mean "cat face".
    """
    if set(noun) <= set(name):
        return name[-1] == "face" or not set(noun).isdisjoint((name[-1], head_of(" ".join(name)).split()[-1]))
    if not set(noun) & set(name):
        spelt = ("".join(noun), "".join(name))
        return not any(one.startswith(other[:4]) for one, other in (spelt, spelt[::-1]))
    return noun[-1] == name[-1] and len(noun) == 2
