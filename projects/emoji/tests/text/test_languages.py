"""Words of other languages are read as English ones, and English stays as it is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from hart.text_encoder import KnownWords, Thesaurus
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


def test_words_of_other_languages_are_read_and_english_ones_are_not(packages: Path, wordnet: Path) -> None:
    words = "a and cat sailboat red apple black chat rouge in yacht"
    known = KnownWords.of([words], ("apple", "cat", "red apple", "sailboat"))
    concepts = [Concept("cat", "cat", "animals-nature"), Concept("sailboat", "sailboat", "travel-places")]
    concepts.append(Concept("red-apple", "red apple", "food-drink"))
    found = add_languages(Thesaurus({}, {}, frozenset({"die", "xqz"})), known, concepts, Senses(wordnet), packages)
    readings = {
        **{"une": "a", "die": "a", "noir": "black", "katze": "cat", "pomme": "apple", "pomme rouge": "red apple"},
        **{
            "un chat": "a cat",
            "katze rouge": None,
            "chat rouge": "red cat",
            "chat": None,
            "yacht": None,
            "apple": None,
        },
    }
    assert {words: found.things.get(words) for words in readings} == readings
    assert found.left == {"xqz"}
