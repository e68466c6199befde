"""What text encoders read of a prompt: what is left out, what is not known, and emoji as their names."""

from __future__ import annotations

import pytest

from hart import HartPipeline
from hart.text_encoder import Reading
from hart.text_encoder.base import TextEncoder
from hart.text_encoder.emoji import named_emoji

TABLE = "a red apple on a wooden table in the kitchen next to a blue cup"


@pytest.fixture
def shipped(emoji: HartPipeline) -> TextEncoder:
    assert emoji.text_encoder is not None
    return emoji.text_encoder


@pytest.mark.parametrize(
    ("prompt", "left_out", "unknown"),
    [
        ("a red apple", "", ()),
        (TABLE, "", ()),
        (f"{TABLE} and a small green frog", "and a small green frog", ()),
        (f"{TABLE[2:]} antidisestablishmentarianism", "antidisestablishmentarianism", ()),
        ("\u043a\u043e\u0442", "", ("\u043a\u043e\u0442",)),
        ("a \u732b and a \u732b", "", ("\u732b",)),
        ("a cat \u2014 or \u2026 a dog\u3002", "", ()),  # marks between words
        ("\U0001f438", "", ()),
        ("", "", ()),
        (f"{TABLE} \U0001f438 \u043a\u043e\u0442", "frog \u043a\u043e\u0442", ()),
    ],
)
def test_the_shipped_encoder_says_what_it_does_not_read(
    shipped: TextEncoder, prompt: str, left_out: str, unknown: tuple[str, ...]
) -> None:
    reading, other = shipped.reading([prompt, "a cat"])
    assert (reading.left_out, reading.unknown) == (left_out, unknown) and other == Reading()


def test_remarks_are_lines_that_name_the_words() -> None:
    assert Reading().remarks("a cat") == []
    cut, unknown = Reading("and a\nfrog", tuple(f"w{i}" for i in range(20))).remarks("a cat " * 100)
    assert 'longer than the text encoder reads: "and a frog" is left out' in cut
    assert '"w0", ' in unknown and "and 12 more" in unknown
    assert max(map(len, Reading("x " * 10**5, ("y" * 10**5,)).remarks("z" * 10**5))) < 250


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a red apple, 3 \u043a\u043e\u0442 caf\u00e9", "a red apple, 3 \u043a\u043e\u0442 caf\u00e9"),
        ("\U0001f438", "frog"),
        ("a\U0001f438b", "a frog b"),
        ("\u2764\ufe0f and \u2764", "red heart and red heart"),
        ("\U0001f44d\U0001f3fd", "thumbs up with medium skin tone"),
        ("\U0001f469\U0001f3fd\u200d\U0001f680", "woman astronaut with medium skin tone"),
        ("\U0001f469\U0001f3fb\u200d\U0001f91d\u200d\U0001f468\U0001f3ff",
         "woman and man holding hands with light and dark skin tone"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "family with man, woman and girl"),
        ("\U0001f9d1\u200d\U0001f438", "person and frog"),  # no emoji of Unicode
        ("\U0001f1eb\U0001f1f7\U0001f1ef\U0001f1f5", "flag of France flag of Japan"),
        ("1\ufe0f\u20e3", "keycap 1"),
        ("Cola\u2122", "Cola\u2122"),
        ("Cola\u2122\ufe0f", "Cola trade mark"),
        ("\u2605 \U0001f3fd", "\u2605 \U0001f3fd"),  # a star that is no emoji, and a tone of nothing
    ],
)  # fmt: skip
def test_emoji_are_read_as_their_names(text: str, read: str) -> None:
    assert named_emoji(text) == read
