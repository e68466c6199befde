"""Words that no caption had are read as the name that they mean; all others stay."""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hart
from hart import HartError, HartPipeline
from hart.text_encoder import Reading, known_words, vocabulary_digest
from hart.text_encoder.compact import CompactTextEncoder
from hart.text_encoder.known_words import KNOWN_WORDS_FILE, THESAURUS_FILE, KnownWords, WordReader

EMOJI_MODEL = Path(hart.__file__).parent / "models" / "emoji"


@pytest.fixture
def shipped(emoji: HartPipeline) -> CompactTextEncoder:
    assert isinstance(emoji.text_encoder, CompactTextEncoder)
    return emoji.text_encoder


def test_words_of_captions_are_known_with_their_accents(shipped: CompactTextEncoder) -> None:
    assert KnownWords.of(["Flag of Türkiye", "two piñatas, d'or"], ()).words == {
        "flag", "of", "turkiye", "two", "pinatas", "d'or"
    }  # fmt: skip
    assert shipped.reader is not None
    assert shipped.reader("flag of Türkiye") == ("flag of Türkiye", []), "and is no bird"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a yacht on a blue background", "a sailboat on a blue background"),
        ("two Yachts", "two sailboats"),
        ("a red sail boat", "a red sailboat"),
        ("a furious dog in a teal kayak", "a furious dog in a teal canoe"),
        ("a red apple, old noto style", "a red apple, old noto style"),
        ("three cats and a dog, medium-dark skin tone", "three cats and a dog, medium-dark skin tone"),
        ("antidisestablishmentarianism", "antidisestablishmentarianism"),  # near to no name
        ("two girafes", "two giraffes"),
        ("a lightblue pumkin", "a light blue pumpkin"),
        ("two dolfins", "two dolphins"),
        ("two crossants", "two croissants"),  # no "cross ants"
        ("a cat's hat", "a cat hat"),
        ("three stories and peaks", "three stories and peaks"),  # no "stores" and "pears": stories are of a story
        ("weeding and trekking", "weeding and trekking"),  # no "wedding" and "trek king"
        ("juggle", "person juggling"),
        ("two chiefs", "two chiefs"),  # no "chefs": the thesaurus leaves a chief
        ("pomme", "pomme"),  # near "poop" by its letters alone
        ("\U0001f438", "frog"),
    ],
)
def test_unknown_words_are_read_as_names(shipped: CompactTextEncoder, prompt: str, read: str) -> None:
    others = shipped.reading([prompt])[0].others
    assert (" ".join(others.values()) in read) and any(others.values()) == (read != prompt and prompt.isascii())
    given, wanted = shipped.encode([prompt]), shipped.encode([read])
    assert torch.equal(given.embeddings, wanted.embeddings) and torch.equal(given.mask, wanted.mask)


def test_a_long_text_of_unknown_words_costs_little_and_none_of_them_are_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        encoded.extend(texts)
        return torch.ones(len(texts), 2)

    monkeypatch.setattr(known_words, "KEPT_WORDS", 5)
    reader = WordReader(KnownWords(frozenset(), ("moon",)), None, encode, tokens=16)
    words = ["moon" + chr(ord("a") + i // 26) + chr(ord("a") + i % 26) for i in range(500)]
    read, replaced = reader(" ".join(words))
    assert read.split() == ["moon"] * 16 + words[16:], "what is beyond the tokens is not read, and so not looked up"
    assert encoded == ["moon", *words[:16]] and [one.said for one in replaced] == words[:16]
    assert len(reader._near) <= 5


def test_names_are_read_as_they_are(shipped: CompactTextEncoder) -> None:
    known = KnownWords.load(EMOJI_MODEL)
    assert known is not None and shipped.reader is not None
    assert [name for name in known.names if shipped.reader(name) != (name, [])] == []


@pytest.mark.parametrize("prompt", ["a café", "two Piñatas", "two Pin\u0303atas"])
def test_accents_do_not_part_words(shipped: CompactTextEncoder, prompt: str) -> None:
    apart = unicodedata.normalize("NFD", prompt)
    plain = "".join(letter for letter in apart if not unicodedata.combining(letter))
    assert torch.equal(shipped.encode([prompt]).embeddings, shipped.encode([plain]).embeddings)
    assert all(said in unicodedata.normalize("NFC", prompt).split() for said in shipped.reading([prompt])[0].others)


@pytest.mark.parametrize(
    ("prompt", "usual"),
    [
        ("a red\u200bapple", "a red apple"),
        ("a red\x0capple\x85", "a red apple "),
        ("\ufeffa red ap\u00adple\u202c", "a red apple"),
        ("a red \ufb01sh\u2026", "a red fish..."),
        ("\uff21\u3000\uff32\uff25\uff24 apple\uff01", "A RED apple!"),
        ("a cat\u2014a dog", "a cat - a dog"),
        ("a t\u2011shirt", "a t-shirt"),
        ("a kitten\u2019s ball", "a kitten's ball"),
        ("a \U0001f468\u200d\U0001f469\u200d\U0001f467\u200b!", "a family with man, woman and girl !"),
    ],
)
def test_characters_of_other_programs_are_read_as_those_of_captions(
    shipped: CompactTextEncoder, prompt: str, usual: str
) -> None:
    """What text from a page or a telephone has in it, seen or not."""
    assert torch.equal(shipped.encode([prompt]).embeddings, shipped.encode([usual]).embeddings)
    assert shipped.reading([prompt]) == shipped.reading([usual])


def test_the_author_is_told(shipped: CompactTextEncoder) -> None:
    (remark,) = shipped.reading(["a yacht"])[0].remarks("a yacht")
    assert '"yacht"' in remark and '"sailboat"' in remark
    (remark,) = shipped.reading(["a red xqzkw"])[0].remarks("a red xqzkw")
    assert 'did not learn "xqzkw", nor one like it' in remark
    # an adapter's captions may have had it; a word that is read as another is so in its training too
    assert shipped.reading(["a red xqzkw"])[0].remarks("a red xqzkw", adapted=True) == []
    assert '"sailboat"' in shipped.reading(["a yacht"])[0].remarks("a yacht", adapted=True)[0]


def test_words_without_a_name_are_told_in_one_sentence_and_only_those_that_are_read(
    shipped: CompactTextEncoder,
) -> None:
    prompt = "xqzkw xyzzy a cat and a dog on a table in the garden, a yacht, a blorpt"
    cut, plain = shipped.reading([prompt])[0].remarks(prompt)
    assert ', a yacht, a blorpt" is left out' in cut, "as it was written"
    assert plain == 'the model did not learn "xqzkw", "xyzzy", nor any like them: they may change nothing'


def test_the_author_is_told_of_words_that_captions_have_only_beside_others(
    shipped: CompactTextEncoder, tmp_path: Path
) -> None:
    known = KnownWords.load(EMOJI_MODEL)
    assert known is not None
    shipped.save(tmp_path)
    replace(known, parts={"kitchen": ("knife", "spoon", "cook", "pot"), "pinata": ("jar",)}).save(tmp_path)
    encoder = CompactTextEncoder.load(shipped.config, tmp_path)
    assert vocabulary_digest(encoder) == vocabulary_digest(shipped), "all is read as before"
    (reading,) = encoder.reading(["a Kitchen, a yacht"])
    remark = reading.remarks("a kitchen")[-1]
    said = 'the model learned "kitchen" only beside others ("knife", "spoon", "cook"): it may not draw it alone'
    assert remark == said
    assert encoder.reading(["a kitchen knife", "a cook in the kitchen", "a cat"]) == [Reading()] * 3
    assert list(encoder.reading(["two Piñata"])[0].parts) == ["pinata"]
    assert reading.remarks("a kitchen", adapted=True) == reading.remarks("a kitchen")[:-1], "its captions may have it"
    encoder.save(tmp_path, adapted=True)
    assert not CompactTextEncoder.load(shipped.config, tmp_path).reading(["a kitchen"])[0].parts
    (tmp_path / KNOWN_WORDS_FILE).write_text('{"words": [], "names": [], "parts": {"kitchen": "knife"}}')
    with pytest.raises(HartError, match="no lists of words and names"):
        CompactTextEncoder.load(shipped.config, tmp_path)


def test_the_list_goes_with_the_encoder(shipped: CompactTextEncoder, tmp_path: Path) -> None:
    shipped.save(tmp_path)
    known = KnownWords.load(EMOJI_MODEL)
    assert known is not None and known.complete and KnownWords.load(tmp_path) == known
    ours, theirs = (gzip.decompress((folder / THESAURUS_FILE).read_bytes()) for folder in (tmp_path, EMOJI_MODEL))
    assert ours == theirs
    shipped.save(tmp_path, adapted=True)
    tuned = CompactTextEncoder.load(shipped.config, tmp_path)
    assert tuned.reading(["a red xqzkw yacht"])[0].others == {"yacht": "sailboat"}, "it may have learned another since"
    assert vocabulary_digest(tuned) == vocabulary_digest(shipped), "captions are read alike"
    tuned.save(tmp_path)
    assert KnownWords.load(tmp_path) == replace(known, complete=False), "stored again"
    (tmp_path / KNOWN_WORDS_FILE).unlink()
    plain = CompactTextEncoder.load(shipped.config, tmp_path)
    assert plain.reading(["a yacht"])[0].others == {}
    (tmp_path / KNOWN_WORDS_FILE).write_text('{"words": "yacht"}')
    with pytest.raises(HartError, match="no lists of words and names"):
        CompactTextEncoder.load(shipped.config, tmp_path)
