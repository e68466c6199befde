"""Words of other languages are read as English ones, and English stays as it is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from hart.text_encoder import KnownWords, Thesaurus
from hart.text_encoder.known_words import WordReader
from hart_emoji.data.build import NAMES
from hart_emoji.data.catalogue import Concept
from hart_emoji.text.languages import SMALL_WORDS, add_languages
from hart_emoji.text.senses import Senses


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Three emoji, for two of which French has words that captions have too."""
    labels = {
        "en": ("cat", "sailboat", "red apple"),
        "fr": ("chat", "yacht", "pomme rouge"),
        "de": ("Katze", "Segelboot", "roter Apfel"),
    }
    with tarfile.open(tmp_path / NAMES.archive_name, "w:gz") as tar:
        for language in ("en", *SMALL_WORDS):
            names = labels.get(language, labels["en"])
            file = tmp_path / f"{language}.json"
            file.write_text(json.dumps([{"hexcode": str(n), "label": name} for n, name in enumerate(names)]))
            tar.add(file, f"package/{language}/data.json")
    return tmp_path


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """One word that people use."""
    files = dict.fromkeys(
        (f"{kind}.{part}" for kind in ("data", "index") for part in ("noun", "verb", "adj", "adv")), ""
    )
    files["data.noun"] = "00000001 06 n 01 yacht 0 000 | a vessel with sails\n"
    files["index.noun"] = "yacht n 1 0 1 1 00000001\n"
    files["cntlist.rev"] = "yacht%1:06:00:: 1 4\n"
    for name, content in files.items():
        (tmp_path / name).write_text(f"  1 This software and database is being provided to you\n{content}")
    return tmp_path


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("une pomme rouge", "a red apple"),
        ("ein roter Apfel", "a apple"),
        ("un chat noir", "a cat black"),
        ("l'apple et la Katze", "apple and a cat"),
        ("chat in a yacht", "chat in a yacht"),
    ],
)
def test_words_of_other_languages(packages: Path, wordnet: Path, said: str, read: str) -> None:
    words = "a and cat sailboat red apple black chat rouge in yacht"
    known = KnownWords.of([words], ("apple", "cat", "red apple", "sailboat"))
    concepts = [Concept("cat", "cat", "animals-nature"), Concept("sailboat", "sailboat", "travel-places")]
    concepts.append(Concept("red-apple", "red apple", "food-drink"))
    english = Thesaurus({}, {}, frozenset({"die"}))
    found = add_languages(english, known, concepts, Senses(wordnet), packages)
    reader = WordReader(known, found, lambda texts: pytest.fail(f"looked up {texts}"), 16)
    assert reader(said)[0] == read
