"""Which words captions have only beside others."""

from __future__ import annotations

from pathlib import Path

import pytest

from emoji_packages import write_wordnet
from hart.text_encoder import KnownWords
from hart_emoji.text.known_words import find_parts, only_modifies
from hart_emoji.text.senses import Senses

THINGS = ("kitchen", "knife", "owl", "barn", "bread", "cook")


@pytest.fixture
def senses(tmp_path: Path) -> Senses:
    """Things, and "smiling", which is none."""
    files = dict.fromkeys(["data.verb", "index.verb", "data.adv", "index.adv", "cntlist.rev"], "") | {
        "data.noun": "".join(f"0000000{n} 06 n 01 {word} 0 000 | a thing\n" for n, word in enumerate(THINGS, start=1)),
        "index.noun": "".join(f"{word} n 1 0 1 1 0000000{n}\n" for n, word in enumerate(THINGS, start=1)),
        "data.adj": "00000009 00 s 01 smiling 0 000 | with a smile\n",
        "index.adj": "smiling a 1 0 1 0 00000009\n",
    }
    return Senses(write_wordnet(tmp_path, files))


def test_parts_are_things_that_no_caption_has_alone(senses: Senses) -> None:
    captions = ["kitchen knife", "kitchen knives", "knife", "barn owl", "owls", "smiling cook", "cook", "red bread"]
    captions += ["cook, kitchen", "knife, kitchen"]
    known = KnownWords.of(captions, ())
    assert find_parts(known, captions, ["a red"], senses) == {
        "barn": ("owl",),
        "kitchen": ("knife", "cook", "knives"),
    }, "bread has only a colour beside it, owls are owls"


@pytest.mark.parametrize(
    ("noun", "names", "said"),
    [
        ("kitchen", ["kitchen knife"], True),
        ("knife", ["kitchen knife"], False),
        ("book", ["closed book", "book"], False),
        ("bow", ["bow and arrow"], False),
    ],
)
def test_a_noun_inside_a_name_heads_it_or_does_not(noun: str, names: list[str], said: bool) -> None:
    assert only_modifies(noun, names) == said
