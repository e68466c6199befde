"""What words mean by their senses and a sentence encoder, and as which names they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emoji_packages import write_package, write_wordnet
from hart import HartError
from hart.text_encoder import KnownWords
from hart_emoji.data.captions import Keywords
from hart_emoji.data.catalogue import Concept
from hart_emoji.text import thesaurus
from hart_emoji.text.meanings import ConceptWords, Meanings, Space
from hart_emoji.text.senses import Senses, thing_share
from hart_emoji.text.thesaurus import find_thesaurus, practice_words, spoken_name
from hart_emoji.text.word_vectors import DIMENSIONS, FILE, PACKAGE, WordVectors

TOPICS = ("boat sail vessel yacht sails water", "dog barks puppy animal hound", "angry furious mad rage", "verona city")


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """Five words; "yacht" is a noun four times and a verb once, "verona" a name."""
    files = {
        "data.noun": '00000001 06 n 01 yacht 0 000 | a vessel with sails; "two yachts"\n'
        "00000002 15 n 01 Verona 0 000 | a city\n00000003 05 n 01 hound 0 000 | a dog\n"
        "00000006 06 n 02 sea 0 boat 0 000 | a vessel on water\n"
        "00000007 07 n 01 angary 0 000 | a right of those at war\n",
        "index.noun": "yacht n 1 0 1 1 00000001\nverona n 1 0 1 0 00000002\nhound n 1 0 1 0 00000003\n"
        "water_vessel n 1 0 1 0 00000006\nangary n 1 0 1 0 00000007\n",
        "data.verb": "00000004 38 v 01 yacht 0 000 | sail about\n",
        "index.verb": "yacht v 1 0 1 1 00000004\n",
        "data.adj": "00000005 00 s 01 furious 0 000 | very angry\n",
        "index.adj": "furious a 1 0 1 0 00000005\n",
        "data.adv": "",
        "index.adv": "",
        "noun.exc": "hounden hound\n",
        "cntlist.rev": "yacht%1:06:00:: 1 4\nyacht%2:38:00:: 1 0\nfurious%5:00:00:angry:00 1 2\n",
    }
    return write_wordnet(tmp_path, files)


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """A cache with word vectors by topics, as the package has them."""
    words = sorted({word for topic in TOPICS for word in topic.split()} | {"yacht"})
    rows = torch.randn(len(words), DIMENSIONS, generator=torch.Generator().manual_seed(0)) * 0.1
    for row, word in enumerate(words):
        topic = next((n for n, topic in enumerate(TOPICS) if word in topic.split()), 0)
        rows[row, topic * 4 : topic * 4 + 4] += 1
    of_words = {word: [*row.tolist(), 1.0, 0] for word, row in zip(words, rows, strict=True)}
    write_package(tmp_path, PACKAGE, {FILE: {"words": words, "vectors": of_words}})
    return tmp_path


def embed(texts: Sequence[str]) -> Tensor:
    """By topics of their words, and a little of their own that no other text shares."""
    rows = []
    for number, text in enumerate(texts):
        own = torch.randn(8, generator=torch.Generator().manual_seed(len(text) + number)) * 0.05
        words = text.replace(":", "").split()
        rows.append(torch.cat([torch.tensor([float(sum(w in topic.split() for w in words)) for topic in TOPICS]), own]))
    return F.normalize(torch.stack(rows), dim=1)


def test_senses_are_those_of_the_word_or_of_its_base(wordnet: Path) -> None:
    senses = Senses(wordnet)
    noun, verb = senses("yachts")
    assert (noun.gloss, noun.thing, noun.proper) == ("a vessel with sails", True, False)
    assert verb.gloss == "sail about" and noun.share == pytest.approx(0.9) and thing_share([noun, verb]) == noun.share
    assert [sense.gloss for sense in senses("hounden")] == ["a dog"]
    assert [sense.proper for sense in senses("verona")] == [True]
    assert senses("xqzkw") == []
    assert senses.used("yacht") and not senses.used("hound")


def test_a_wordnet_that_is_not_whole_is_refused(wordnet: Path) -> None:
    (wordnet / "cntlist.rev").unlink()
    with pytest.raises(HartError, match="wordnet-base"):
        Senses(wordnet)


def test_words_mean_the_concept_that_is_nearest(wordnet: Path) -> None:
    concepts = [ConceptWords(["boat"], ["sail"], ["water"]), ConceptWords(["dog"], ["puppy", "sail"], [])]
    meanings = Meanings(concepts, [Space(embed, Senses(wordnet)), Space(embed)])
    meanings.fit({"sail": [0], "puppy": [1]})
    found = meanings(["yacht", "hound", "puppy"])
    assert found.argmax(dim=1).tolist() == [0, 1, 1]
    assert torch.allclose(found.sum(dim=1), torch.ones(3))


def test_vectors_of_texts_are_those_of_their_words(vectors: Path) -> None:
    boats, dog, both, none = WordVectors(vectors).encode(["boats", "dog", "dog, dog", "the zzz"])
    boat, pair = WordVectors(vectors).encode(["Boat", "a boat, a dog"])
    assert torch.equal(boats, boat) and torch.allclose(dog, both) and not none.any()
    assert min(boat @ pair, dog @ pair) > boat @ dog


def test_what_is_practised_are_keywords_that_no_name_has() -> None:
    concepts = [ConceptWords(["boat"], ["sail", "dog"], ["water"]), ConceptWords(["dog face", "dog"], ["sail"], [])]
    assert practice_words(concepts) == {"sail": [0, 1]}


def test_the_name_that_is_said() -> None:
    assert spoken_name(Concept("closed-book", "closed book", "objects")) == "book"
    assert spoken_name(Concept("red-apple", "red apple", "food-drink")) == "apple"
    assert spoken_name(Concept("hot-beverage", "hot beverage", "food-drink")) == "hot beverage"


def test_things_are_read_anywhere_and_others_alone(
    wordnet: Path, vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Teacher:
        pieces = ("[PAD]", "dog", "yacht", "furious", "verona", "##x", "boats", "water", "vessel", "quietly")

        def __init__(self, source: str) -> None:
            assert source == "teacher"

        def encode(self, texts: Sequence[str]) -> Tensor:
            return embed(texts)

    monkeypatch.setattr(thesaurus, "SentenceTeacher", Teacher)
    concepts = [
        Concept("boat", "boat", "travel-places", keywords=("sails",)),
        Concept("dog", "dog", "animals-nature", keywords=("barks",)),
        Concept("angry-face", "angry face", "smileys-emotion", keywords=("rage",)),
    ]
    known = KnownWords(
        frozenset({"boat", "dog", "angry", "face", "sails", "rage", "barks"}), ("boat", "dog", "angry face")
    )
    found = find_thesaurus(known, concepts, Keywords(concepts), wordnet, "teacher", WordVectors(vectors))
    assert found.things == {"yacht": "boat", "hound": "dog", "water vessel": "boat"}
    assert found.alone["furious"] == "angry face"
    assert "verona" in found.left and "dog" not in found.left and "boats" not in found.left
    assert known.corrected("angary") == "angry" and "angary" in found.left, "a word of its own is no misspelling"
