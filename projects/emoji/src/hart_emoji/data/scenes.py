"""Images composed of emoji, with captions that say what they show: things, colours, counts, places, backgrounds.

Row n depends only on the seed and n. Only training icons of the emoji set are used, and none of its held-out words.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

from PIL import Image

from hart.data import DamagedSample, Listed, Located, Note, Source
from hart_emoji.data.arrangement import centres, laid, related
from hart_emoji.data.build import PACKAGES, STYLES, layer_of, read_icons
from hart_emoji.data.captions import DEFAULT_STYLE, Keywords, captions, plain_names, styled, with_article
from hart_emoji.data.catalogue import Icon
from hart_emoji.data.ink import OVERSAMPLED, inked
from hart_emoji.data.plan import held_out_keywords, plan_images, with_default_share
from hart_emoji.data.recolour import COLOURS, OwnColour, background, colour_word, own_colour, repainted, without_colour
from hart_emoji.data.rewriting import NUMBERS, PAIR, one_thing, plural, sometimes_mistyped
from hart_emoji.data.words import COMMON, DIGEST
from hart_emoji.scene_options import KINDS

DEFAULT_SHARE = 0.74
"""Share of images in the default style, which is what words without a style mean."""
THINGS = frozenset({"animals-nature", "food-drink", "travel-places", "activities", "objects"})
"""Groups whose icons show things that can stand side by side and be counted."""
FIGURES = frozenset({"smileys-emotion", "people-body", "other", *THINGS})
"""Groups that may stand on a coloured background."""
LONGEST_NAME = 3
"""Most words in the name of a thing in a scene of several."""
SHORT_NAME_WEIGHT, LONG_NAME_WEIGHT = 0.15, 0.05
"""Chance of a thing that is not `COMMON`, with and without a one-word name, relative to one that is."""

VERSION = 5
"""Increased whenever images or captions of rows change, so that an encoded set is not continued with different rows."""
TRIES = 20

WHITE = (255, 255, 255)
Describe = Callable[[random.Random], str]
"""Returns one more caption of the same image."""


@dataclass(frozen=True)
class Thing:
    """An icon in a scene. names: what it may be called, without articles. sprite: RGBA, at its final size."""

    names: tuple[str, ...]
    sprite: Image.Image


class EmojiScenes(Source):
    """`count` composed images of `size` pixels."""

    title = "scenes of emoji"
    wordings = 3
    """Captions per image."""

    def __init__(
        self,
        cache: Path,
        count: int,
        *,
        size: int = 128,
        seed: int = 0,
        barred: Collection[str] = (),
        kinds: Mapping[str, float] = KINDS,
    ) -> None:
        """cache: folder of the npm archives of the emoji set. barred: captions, in lower case, that must not be used.
        kinds: some of `KINDS`, with their shares.

        Raises `HartError` if the archives cannot be fetched.
        """
        self.kinds = kinds
        icons = read_icons(cache, lambda done, total, what: None)
        concepts = {icon.concept.slug: icon.concept for icon in icons}
        # the same split and held-out words as in the set that `hart-emoji data` writes
        self.keywords = Keywords(concepts.values(), held_out_keywords(concepts.values()))
        kept = [image for image in plan_images(icons) if image.held_out is None]
        self.icons = [image.icon for image in kept]
        self.chances = with_default_share([image.weight for image in kept], self.icons, DEFAULT_SHARE)
        self.count = count
        self.size = size
        self.seed = seed
        self.barred = frozenset(barred)
        self._things = self._rows(self._is_thing)
        self._reach = list(accumulate(self._weight(row) for row in self._things))
        self._figures = self._rows(lambda icon: icon.concept.group in FIGURES)
        self._set = f"{self.title}, {size} px, seed {seed}"
        super().__init__(self._set)

    def records(self) -> Iterator[tuple[int, type[Listed]]]:
        return ((row, Listed) for row in range(self.count))

    def name(self, place: int) -> str:
        return f"scene {place}"

    def read_record(self, place: int) -> Located:
        image, texts = self.scene(place)
        return Note(texts), partial(_bmp, image)

    def digest(self) -> str:
        """Digest of everything that determines the rows: size, seed, shares, pinned packages and barred captions. The
        number of rows is left out, so that an encoded set can be extended."""
        packages = [f"{package.name}@{package.version}" for package in PACKAGES]
        parts = [
            self._set,
            f"version {VERSION}",
            DIGEST,
            str(dict(self.kinds)),
            *map(str, (*self.chances, *self._reach)),
            *packages,
            *sorted(self.barred),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def scene(self, row: int) -> tuple[Image.Image, tuple[str, ...]]:
        """Return a row's RGB image and captions. Raises `DamagedSample` if making a scene failed `TRIES` times."""
        rng = random.Random(f"{self.seed}|scene|{row}")
        image, describe = self._made(rng)
        texts: list[str] = []
        while len(texts) < self.wordings:
            text = describe(rng)
            if self._usable(text):
                texts.append(sometimes_mistyped(text, rng))
        return image, tuple(texts)

    def _usable(self, text: str) -> bool:
        return text.lower() not in self.barred

    def _made(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        makers = {
            "single": self._single,
            "coloured": self._coloured,
            "background": self._on_background,
            "two": self._two,
            "count": self._counted,
            "inked": self._inked,
        }
        kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        for _ in range(TRIES - 1):
            with suppress(DamagedSample):  # a blank icon
                return makers[kind](rng)
        return makers[kind](rng)

    def _single(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        icon = self._chosen(range(len(self.icons)), rng)
        moved = rng.random() < 0.7
        scale = rng.uniform(0.85, 1.05) if moved else 1.0
        sprite = self._sprite(icon, round(self.size * scale), rng.uniform(-6, 6) if moved else 0)
        shift = 0.05 if moved else 0.0
        image = laid(self.size, WHITE, [(sprite, rng.uniform(-shift, shift) + 0.5, rng.uniform(-shift, shift) + 0.5)])
        colour = own_colour(sprite) if icon.concept.group in THINGS else None
        names = plain_names(icon.concept)

        def describe(rng: random.Random) -> str:
            if colour is not None and colour.word and rng.random() < 0.15:
                name = without_colour(rng.choice(names))
                return self._styled(one_thing(f"{colour_word(colour.word, rng)} {name}", rng), icon.style, rng)
            if icon.tone is None and rng.random() < 0.4:
                return self._styled(one_thing(rng.choice(names), rng), icon.style, rng)
            return rng.choice(captions(icon.concept, STYLES[icon.style].word, icon.tone, self.keywords, rng)[1:])

        return image, describe

    def _coloured(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        """One thing in a colour that is not its own."""
        icon, sprite, colour = self._with_colour(round(self.size * rng.uniform(0.85, 1.0)), rng)
        word = _another(colour, rng)
        painted = repainted(sprite, colour, word)
        image = laid(self.size, WHITE, [(painted, 0.5, 0.5)])
        names = tuple(without_colour(name) for name in plain_names(icon.concept))

        def describe(rng: random.Random) -> str:
            name, said = rng.choice(names), colour_word(word, rng)
            if rng.random() < 0.12:
                return self._styled(f"{with_article(name)} in {said}", icon.style, rng)
            return self._styled(one_thing(f"{said} {name}", rng), icon.style, rng)

        return image, describe

    def _on_background(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        icon = self._chosen(self._figures, rng)
        sprite = self._sprite(icon, round(self.size * rng.uniform(0.65, 0.9)), rng.uniform(-8, 8))
        said, colour = background(rng)
        image = laid(self.size, colour, [(sprite, rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55))])
        names = plain_names(icon.concept)
        tone = f" with {icon.tone} skin tone" if icon.tone else ""

        def describe(rng: random.Random) -> str:
            name = rng.choice(names)
            thing = (with_article(name) if rng.random() < 0.7 else name) + tone
            ground = with_article(f"{said} background")
            where = rng.choice((f"on {ground}", f"on {ground}", f"on {said}", f"against {ground}"))
            text = rng.choice((f"{thing} {where}", f"{thing} {where}", f"{thing}, {said} background"))
            return self._styled(text, icon.style, rng)

        return image, describe

    def _inked(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        """Make a thing in one colour: as a line drawing, as a silhouette or in shades."""
        icon, side = self._chosen(self._figures, rng), round(self.size * rng.uniform(0.7, 0.95))
        sprite, colour, describe = inked(
            self._sprite(icon, side * OVERSAMPLED, 0), side, plain_names(icon.concept), rng
        )
        return laid(self.size, colour, [(sprite, rng.uniform(0.47, 0.53), rng.uniform(0.47, 0.53))]), describe

    def _two(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        """Two things beside or above each other, sometimes of different sizes, sometimes repainted."""
        beside = rng.random() < 0.7
        large, small = rng.uniform(0.45, 0.52), rng.uniform(0.22, 0.29)
        sized = rng.random() < 0.25
        sides = [large, small] if sized else [rng.uniform(0.41, 0.45) for _ in range(2)]
        if rng.random() < 0.5:
            sides.reverse()
        style = self._chosen_thing(rng).style
        painted = rng.random() < 0.4
        things = [self._thing(style, round(self.size * side), rng, painted=painted) for side in sides]
        gap, shift, other = (1 - sum(sides)) / 3, rng.uniform(-0.01, 0.01), rng.uniform(0.485, 0.515)
        first, second = gap + sides[0] / 2 + shift, 1 - gap - sides[1] / 2 + shift
        places = [(first, other), (second, other)] if beside else [(other, first), (other, second)]
        said, colour = background(rng) if rng.random() < 0.15 else ("", WHITE)
        image = laid(self.size, colour, [(t.sprite, x, y) for t, (x, y) in zip(things, places, strict=True)])
        sizes = ["big" if side == max(sides) else "small" for side in sides] if sized else ["", ""]

        def describe(rng: random.Random) -> str:
            names = [rng.choice(thing.names) for thing in things]
            texts = [with_article(f"{size} {name}".strip()) for size, name in zip(sizes, names, strict=True)]
            text = related(*texts, beside=beside, rng=rng)
            if said:
                text = f"{text} on {rng.choice((said, with_article(f'{said} background')))}"
            return self._styled(text, style, rng)

        return image, describe

    def _counted(self, rng: random.Random) -> tuple[Image.Image, Describe]:
        """The same thing several times, sometimes repainted."""
        for _ in range(50):
            icon = self._chosen_thing(rng)
            names = [name for name in self._short_names(icon) if plural(name)]
            if names:
                break
        else:
            raise DamagedSample("no icon with a plural was found")
        number = rng.choices(list(NUMBERS), (4, 4, 3, 2, 1))[0]
        middles = centres(number)
        side = 0.42 if number <= 4 else 0.27
        sprite = self._filling(icon, round(self.size * side * rng.uniform(0.85, 1)))
        word = ""
        if rng.random() < 0.25 and (colour := own_colour(sprite)) is not None:
            word = _another(colour, rng)
            sprite = repainted(sprite, colour, word)
            names = [without_colour(name) for name in names]
        jitter = 0.012
        placed = [
            (sprite.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC), x + rng.uniform(-jitter, jitter), y)
            for x, y in middles
        ]
        image = laid(self.size, WHITE, placed)

        def describe(rng: random.Random) -> str:
            name = rng.choice(names)
            many = plural(f"{colour_word(word, rng)} {name}" if word else name)
            assert many is not None
            said = rng.choice([word for word in NUMBERS[number] if word != PAIR or not self.keywords.is_name(many)])
            return self._styled(f"{said} {many}", icon.style, rng)

        return image, describe

    def _thing(self, style: str, size: int, rng: random.Random, *, painted: bool) -> Thing:
        """Return a thing in a style. painted: its names include a colour, which mostly is not its own."""
        for _ in range(200):
            icon = self._chosen_thing(rng)
            if icon.style != style:
                continue
            sprite = self._filling(icon, size)
            names = self._short_names(icon)
            if not painted:
                return Thing(names, sprite)
            if (colour := own_colour(sprite)) is not None:
                own = colour.word if rng.random() < 0.25 else None
                word = own or _another(colour, rng)
                said = tuple(f"{colour_word(word, rng)} {without_colour(name)}" for name in names)
                return Thing(said, sprite if own else repainted(sprite, colour, word))
        raise DamagedSample(f"no thing of style {style} was found")

    def _with_colour(self, size: int, rng: random.Random) -> tuple[Icon, Image.Image, OwnColour]:
        for _ in range(50):
            icon = self._chosen_thing(rng)
            sprite = self._sprite(icon, size, 0)
            if (colour := own_colour(sprite)) is not None:
                return icon, sprite, colour
        raise DamagedSample("no icon of one colour was found")

    def _rows(self, wanted: Callable[[Icon], bool]) -> list[int]:
        return [row for row, icon in enumerate(self.icons) if icon.tone is None and icon.certain and wanted(icon)]

    def _chosen(self, rows: Sequence[int], rng: random.Random) -> Icon:
        """Return a random icon from `rows`, weighted by their chances."""
        while True:
            row = rows[rng.randrange(len(rows))]
            if rng.random() < self.chances[row]:
                return self.icons[row]

    def _chosen_thing(self, rng: random.Random) -> Icon:
        return self.icons[rng.choices(self._things, cum_weights=self._reach)[0]]

    def _is_thing(self, icon: Icon) -> bool:
        return (icon.concept.group in THINGS or icon.concept.slug in COMMON) and bool(self._short_names(icon))

    def _weight(self, row: int) -> float:
        """Return the weight of a thing in a scene: its icon's chance times how likely people are to ask for it."""
        icon = self.icons[row]
        if icon.concept.slug in COMMON:
            return self.chances[row]
        short = any(" " not in name for name in self._short_names(icon))
        return self.chances[row] * (SHORT_NAME_WEIGHT if short else LONG_NAME_WEIGHT)

    def _short_names(self, icon: Icon) -> tuple[str, ...]:
        """Return the names of a thing that suit a scene of several; none if it is plural or no single thing."""
        names = plain_names(icon.concept)
        return tuple(
            name for name in names if len(name.split()) <= LONGEST_NAME and with_article(name)[:2] in ("a ", "an")
        )

    def _sprite(self, icon: Icon, size: int, angle: float) -> Image.Image:
        """Return an icon with its set's margins, in a square `size` px wide before it is turned."""
        sprite = layer_of(icon.svg, size)
        if sprite is None or sprite.getbbox() is None:
            raise DamagedSample(f"{icon.style} {icon.concept.slug} cannot be rendered")
        return sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True) if angle else sprite

    def _filling(self, icon: Icon, size: int) -> Image.Image:
        """Return an icon without margins, its longer side `size` px, so that what a caption calls big is big."""
        rendered = size
        for _ in range(3):  # small icons are measured more than once, since their edges fall on whole pixels
            sprite = self._sprite(icon, rendered, 0)
            sprite = sprite.crop(sprite.getbbox())
            if max(sprite.size) >= size - 1:
                break
            rendered = round(rendered * size / max(sprite.size))
        return sprite

    def _styled(self, text: str, style: str, rng: random.Random) -> str:
        """Sometimes add the style's word; as in `captions`, words without a style mean the default one."""
        if rng.random() < (0.85 if style == DEFAULT_STYLE else 0.05):
            return text
        return styled(text, STYLES[style].word, rng)


def _another(colour: OwnColour, rng: random.Random) -> str:
    """Return a colour word that is not the icon's own and is visible on white."""
    return rng.choice([word for word in COLOURS if word not in (colour.word, "white")])


def _bmp(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "BMP")
    return encoded.getvalue()
