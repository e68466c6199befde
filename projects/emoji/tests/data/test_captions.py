"""Captions read like something a person would type."""

from __future__ import annotations

import random

import pytest

from emoji_packages import unicode_concepts
from hart_emoji.data.captions import (
    DEFAULT_STYLE,
    Keywords,
    captions,
    mentions,
    plain_names,
    readable_name,
    with_article,
)
from hart_emoji.data.catalogue import Concept
from hart_emoji.data.words import COMMON, EVERYDAY

APPLE = Concept("red-apple", "red apple", "food-drink", ("fruit", "teacher"), ("school",))
CAT = Concept("cat-face", "cat face", "animals-nature", ("kitten",), ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("elephant", "an elephant"),
        ("unicorn", "a unicorn"),
        ("hourglass", "an hourglass"),
        ("ATM sign", "an ATM sign"),
        ("UFO", "a UFO"),
        ("unidentified flying object", "an unidentified flying object"),
        ("Uganda flag", "a Uganda flag"),
        ("UN flag", "a UN flag"),
        ("UTC clock", "a UTC clock"),
        ("Uzbekistan flag", "an Uzbekistan flag"),
        ("eucalyptus", "a eucalyptus"),
        ("aurora", "an aurora"),
        ("cherries", "cherries"),
        ("clapping hands", "clapping hands"),
        ("heart with ribbon", "a heart with ribbon"),
        ("person lifting weights", "a person lifting weights"),
        ("three o'clock", "three o'clock"),
        ("flag of Norway", "the flag of Norway"),
    ],
)
def test_article(name: str, expected: str) -> None:
    assert with_article(name) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("woman: blond hair", "woman with blond hair"),
        ("man: bald", "bald man"),
        ("flag: Cayman Islands", "flag of the Cayman Islands"),
        ("keycap: #", "keycap hash"),
        ("family: man, woman, boy", "family with man, woman and boy"),
        ("A button (blood type)", "A button"),
        ("Japanese “here” button", "Japanese here button"),
    ],
)
def test_unicode_names_become_readable(label: str, expected: str) -> None:
    assert readable_name(label) == expected


def test_a_name_that_people_say_means_one_thing() -> None:
    assert plain_names(CAT) == ["cat face", "kitten"], "a cat is another concept"
    said = [name for names in EVERYDAY.values() for name in names]
    assert len(said) == len(set(said))


def test_what_people_ask_for_first_is_in_the_set() -> None:
    assert not COMMON - unicode_concepts()


def test_list_is_mostly_the_name_and_tells_the_default_style_sometimes() -> None:
    listed = captions(APPLE, DEFAULT_STYLE, None, Keywords([APPLE, CAT]), random.Random(0))
    assert 8 <= len(listed) <= 17
    assert listed.count("red apple") >= 2
    assert listed.count("a red apple") >= 2
    assert sum("red apple" in caption for caption in listed) >= len(listed) / 2
    assert 1 <= sum(DEFAULT_STYLE in caption for caption in listed) < len(listed) / 2


def test_every_caption_of_another_style_but_one_tells_it() -> None:
    for seed in range(20):
        listed = captions(APPLE, "twemoji", None, Keywords([APPLE, CAT]), random.Random(seed))
        assert [caption for caption in listed if "twemoji" not in caption] == ["red apple"]


@pytest.mark.parametrize("tone", ["light", "medium-dark"])
def test_every_caption_of_a_skin_tone_tells_it(tone: str) -> None:
    hand = Concept("waving-hand", "waving hand", "people-body", ("hello",), ())
    for caption in captions(hand, "noto", tone, Keywords([hand]), random.Random(0)):
        assert f"{tone} skin" in caption or f"{tone.replace('-', ' ')} skin" in caption


def test_common_keyword_never_stands_alone() -> None:
    fruit = [Concept(f"fruit-{n}", f"fruit number {n}", "food-drink", ("sweet", f"only{n}")) for n in "abcdefgh"]
    keywords = Keywords(fruit)
    assert keywords.standing_alone(fruit[0]) == ["onlya"]
    assert keywords.beside_name(fruit[0]) == ["sweet"]


def test_keyword_that_names_another_concept_never_stands_alone() -> None:
    crown = Concept("crown", "crown", "objects", ("king", "royal"))
    king = Concept("king", "king", "people-body")
    assert Keywords([crown, king]).standing_alone(crown) == ["royal"]


def test_held_out_word_is_in_no_caption() -> None:
    keywords = Keywords([APPLE], held_out=["teacher"])
    for seed in range(20):
        assert not any("teacher" in c for c in captions(APPLE, "noto", None, keywords, random.Random(seed)))


def test_mentions_finds_whole_words_and_phrases_only() -> None:
    assert mentions("a bowl of Ice Cream, noto style", frozenset({"ice cream"}))
    assert not mentions("a mice creamery", frozenset({"ice cream", "ice"}))
