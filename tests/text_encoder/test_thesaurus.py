"""Words that no caption had are read as what a thesaurus says: where, in which form, and what is left."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from hart import HartError
from hart.text_encoder.known_words import THESAURUS_FILE, KnownWords, Thesaurus, WordReader

NAMES = (
    *("sailboat", "ice cream", "hamster", "angry face", "fire engine", "T-shirt", "glass of milk", "peach"),
    *("hot dog", "hotdog"),
)
SAID = "a an and the two red on blue background noto style dog bell sea sailboats hamsters peaches engines fire glasses"
THINGS = {"yacht": "sailboat", "guinea pig": "hamster", "nectarine": "peach", "beverage": "glass of milk"}


@pytest.fixture
def reader(tmp_path: Path) -> WordReader:
    known = KnownWords(frozenset(" ".join([*NAMES, SAID]).lower().split()), NAMES)
    Thesaurus(THINGS, {"furious": "angry face", "on fire": "fire engine"}, frozenset({"quietly"})).save(tmp_path)
    # the encoder finds the first name next to every word
    return WordReader(known, Thesaurus.load(tmp_path), lambda texts: torch.ones(len(texts), 2), tokens=16)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a Yacht on a blue background", "a sailboat on a blue background"),
        ("two yachts", "two sailboats"),
        ("two nectarines", "two peaches"),
        ("two beverages", "two glass of milk"),  # captions have no plural of it
        ("a red guinea pig, noto style", "a red hamster, noto style"),
        ("guinea", "guinea"),  # alone the thesaurus does not have it, and the name next to it is of another stem
        ("sailing", "sailboat"),
        ("two sailbaots", "two sailboats"),
        ("a hamsterz", "a hamsterz"),  # one or more
        ("furious", "angry face"),
        ("the furious", "the angry face"),
        ("a furious dog", "a furious dog"),
        ("a quietly dog", "a quietly dog"),
        ("icecream", "ice cream"),
        ("a red sail boat", "a red sailboat"),
        ("a tshirt", "a T-shirt"),
        ("two dogs, bells", "two dog, bell"),
        ("a red-blue bell, sail-blue", "a red blue bell, sailboat"),
        ("a 'yacht'--a 'red' bell- dog", "a 'sailboat'--a 'red' bell- dog"),
    ],
)
def test_what_words_are_read_as(reader: WordReader, prompt: str, read: str) -> None:
    assert reader(prompt)[0] == read


@pytest.mark.parametrize(
    "prompt", ["", "a red dog on a blue background", *NAMES, "an ice cream and a glass of milk", "fire"]
)
def test_what_captions_had_stays(reader: WordReader, prompt: str) -> None:
    assert reader(prompt) == (prompt, [])


def test_what_is_told_is_what_was_typed(reader: WordReader) -> None:
    _, replaced = reader("a quietly furious Guinea  Pig")
    told = {words.said: words.name for words in replaced}
    assert told == {"quietly": "", "furious": "", "Guinea  Pig": "hamster"}


@pytest.mark.parametrize("content", [b"{}", b'{"things": {"sailboat": [1]}}', b"\xff", None])
def test_only_its_own_form_is_read(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / THESAURUS_FILE).write_bytes(b"no archive" if content is None else gzip.compress(content))
    with pytest.raises(HartError, match=rf"{THESAURUS_FILE}: .*copy the model again"):
        Thesaurus.load(tmp_path)
