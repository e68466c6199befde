"""Composed scenes: repeatable, and what their captions say is there."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hart import HartError
from hart_emoji.data.captions import Keywords
from hart_emoji.data.catalogue import Concept
from hart_emoji.data.recolour import COLOURS, background, own_colour, repainted
from hart_emoji.data.rewriting import NUMBERS, PAIR, one_thing, plural, with_typo
from hart_emoji.data.scenes import EmojiScenes
from hart_emoji.data.words import COMMON
from hart_emoji.scene_options import SceneOptions


@pytest.fixture
def scenes(cache: Path) -> EmojiScenes:
    return EmojiScenes(cache, 300, size=48)


def disc(colour: str, side: int = 32) -> Image.Image:
    sprite = Image.new("RGBA", (side, side))
    ImageDraw.Draw(sprite).ellipse((0, 0, side - 1, side - 1), fill=colour)
    return sprite


def painted(image: Image.Image) -> np.ndarray:
    """(H, W): where an image is not its background, the colour of its first pixel."""
    pixels = np.asarray(image).astype(int)
    apart: np.ndarray = np.abs(pixels - pixels[0, 0]).sum(axis=-1) > 60
    return apart


def test_a_row_is_a_function_of_the_seed(cache: Path, scenes: EmojiScenes) -> None:
    again, other = EmojiScenes(cache, 5, size=48), EmojiScenes(cache, 5, size=48, seed=1)
    for row in range(5):
        assert scenes.read(row) == again.read(row)
    assert any(scenes.read(row).image != other.read(row).image for row in range(5))
    assert len(scenes) == len(scenes.weights) == 300
    assert [scenes.read(row).weight for row in range(20)] == scenes.weights[:20].tolist()
    assert scenes.digest() == again.digest(), "a set that was encoded can be made longer"
    assert scenes.digest() != other.digest()
    assert scenes.digest() != EmojiScenes(cache, 5, size=48, barred={"a pear"}).digest()


def test_kinds_of_scenes_can_be_chosen(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart_emoji.data.rewriting.TYPO_CHANCE", 0)
    counted = EmojiScenes(cache, 40, size=24, kinds={"count": 2})
    numbers = tuple(word for words in NUMBERS.values() for word in words)
    assert all(text.startswith(numbers) for row in range(40) for text in counted.read(row).captions)
    assert counted.digest() != EmojiScenes(cache, 40, size=24).digest()
    assert SceneOptions(count=1024, kinds="two=0.75,count=0.25").shares == {"two": 0.75, "count": 0.25}
    for wrong in ("two", "two=", "two=0", "two=-1", "two=nan", "pair=1", "two=1,two=2", "two=1,"):
        with pytest.raises(HartError, match="each once with its share"):
            SceneOptions(count=1024, kinds=wrong)


def test_captions_are_of_the_set_and_bar_what_is_barred(cache: Path) -> None:
    barred = {"a pear", "pear", "red apple"}
    scenes = EmojiScenes(cache, 200, size=24, barred=barred)
    texts = [text for row in range(200) for text in scenes.read(row).captions]
    assert len(texts) == 200 * EmojiScenes.wordings
    assert not {text.lower() for text in texts} & barred
    assert all(text == text.strip() and "  " not in text and "{" not in text for text in texts)
    assert not any(re.search(r"\ba [aeio]|\ban [^aeiouhAEFHILMNORSX]", text) for text in texts)


def test_sides_and_numbers_are_true(scenes: EmojiScenes) -> None:
    """What a caption says is left or above, or names first, is there: told by where the largest thing is."""
    told = {"sided": 0, "counted": 0}
    for row in range(200):
        image, texts = scenes.scene(row)
        for text in texts:
            places = "left|right|above|below|over|under|beneath|and an? big|and an? small|next to|beside"
            match = re.match(rf"(?:an? )?(big|small) .+? ({places})\b", text)
            if match and "background" not in text and " on " not in text.replace("on the", ""):
                where = painted(image)
                vertical = match[2] in ("above", "below", "over", "under", "beneath")
                where = where.sum(axis=1 if vertical else 0)
                half = len(where) // 2
                first_is_larger = where[:half].max() > where[half:].max()
                says_first = match[2] not in ("right", "below", "under", "beneath")
                assert first_is_larger == ((match[1] == "big") == says_first), text
                told["sided"] += 1
            number = next((n for n, words in NUMBERS.items() if text.startswith(words)), None)
            if number is not None:
                size = 0.3 if number > 4 else 0.45
                share = painted(image).mean()
                assert share < number * size**2, text
                told["counted"] += 1
    assert min(told.values()) > 5


@pytest.mark.parametrize("kind", ["two", "count"])
def test_things_stand_apart_from_each_other_and_from_the_border(cache: Path, kind: str) -> None:
    """Otherwise they would be counted as one, by people as by the suites."""
    for row in range(40):
        image, _ = EmojiScenes(cache, 40, size=96, kinds={kind: 1}).scene(row)
        where = painted(image)
        assert not where[0].any() and not where[-1].any() and not where[:, 0].any() and not where[:, -1].any()
        # a free line through the middle: things are in two rows or two columns
        free = (~where).all(axis=0), (~where).all(axis=1)
        assert any(line[len(line) // 4 : -len(line) // 4].any() for line in free)


def test_what_people_ask_for_first_is_in_most_scenes(cache: Path) -> None:
    scenes, rng = EmojiScenes(cache, 1), random.Random(0)
    chosen = [scenes._chosen_thing(rng).concept.slug for _ in range(2000)]
    common = {slug for slug in chosen if slug in COMMON}
    assert common == {"red-apple", "lemon", "cat-face"}
    mean = sum(chosen.count(slug) for slug in common) / len(common)
    assert mean > 3 * chosen.count("mango") > 3 * chosen.count("green-apple") > 0


def test_a_pair_of_what_is_another_thing_is_not_said(cache: Path) -> None:
    """A pair of glasses is no pair of tumblers."""
    scenes = EmojiScenes(cache, 300, size=24, kinds={"count": 1})

    def pairs() -> list[str]:
        return [text for row in range(300) for text in scenes.read(row).captions if text.startswith(f"{PAIR} pears")]

    assert pairs()
    scenes.keywords = Keywords([Concept("pears", "Pears", "objects")])
    assert not pairs()


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("cat", "cats"),
        ("cherry", "cherries"),
        ("fox", "foxes"),
        ("loaf", "loaves"),
        ("slice of pizza", "slices of pizza"),
        ("mouse", "mice"),
        ("snowman", "snowmen"),
        ("fish", "fish"),
        ("grapes", None),
        ("flag of Norway", "flags of Norway"),
    ],
)
def test_plurals(name: str, many: str | None) -> None:
    assert plural(name) == many


def test_sentences_about_one_thing_hold_its_name_once() -> None:
    rng = random.Random(0)
    for name in ("apple", "flag of Norway", "skis", "hourglass"):
        for _ in range(200):
            text = one_thing(name, rng)
            assert text.count(name) == 1
            assert not re.search(r"\b(a|an|the|my|one) (a|an|the) ", text), text


def test_a_slip_changes_one_word_a_little() -> None:
    rng = random.Random(0)
    for _ in range(100):
        before, after = ["a", "yellow", "banana", "on", "ice"], with_typo("a yellow banana on ice", rng).split()
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert len(changed) <= 1
        assert all(abs(len(before[i]) - len(after[i])) <= 1 and after[i][0] == before[i][0] for i in changed)
    assert with_typo("a cat", rng) == "a cat"


def test_what_is_repainted_has_the_new_colour() -> None:
    for word in COLOURS.keys() - {"black", "white", "grey"}:
        before, painted = ("blue", "#2a6fd6") if word != "blue" else ("red", "#d62a2a")
        sprite = disc(painted)
        own = own_colour(sprite)
        assert own is not None and own.word == before
        again = own_colour(repainted(sprite, own, word))
        assert again is not None and again.word == word


def test_an_icon_of_two_colours_or_none_has_no_colour_of_its_own() -> None:
    thirds = disc("red")
    thirds.paste("blue", (0, 0, 11, 32))
    thirds.paste("lime", (11, 0, 22, 32))
    assert own_colour(thirds) is None
    assert own_colour(disc("#888888")) is None


def test_backgrounds_are_called_what_they_are() -> None:
    rng = random.Random(0)
    seen = {}
    for _ in range(200):
        said, colour = background(rng)
        seen[said] = sum(colour)
    assert "white" not in seen
    assert seen["light blue"] > seen["blue"] > seen["dark blue"]
