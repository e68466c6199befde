"""Single emoji under many wordings: repeatable, and nothing held out in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart import HartError, HartPipeline
from hart_emoji.data.captions import mentions
from hart_emoji.data.plain import PlainEmoji, may_mean, nearest_nouns


def test_captions_are_of_the_set_and_of_its_further_words(cache: Path) -> None:
    barred = {"a pear", "pear"}
    plain, again = (PlainEmoji(cache, 60, size=24, barred=barred) for _ in range(2))
    assert plain.read(3) == again.read(3)
    before = plain.digest()
    assert before == again.digest()
    plain.nouns = {icon.concept.slug: ["moggy"] for icon in plain.icons}
    assert plain.digest() != before, "a set with other words is another set"
    samples = [plain.read(row) for row in range(60)]
    assert all(sample.weight == 1 and len(sample.captions) == PlainEmoji.wordings for sample in samples)
    assert plain.weights.tolist() == [1.0] * 60
    texts = [text for sample in samples for text in sample.captions]
    assert any("moggy" in text for text in texts)
    assert not {text.lower() for text in texts} & barred
    assert not any(mentions(text, plain.keywords.held_out) for text in texts)


@pytest.mark.parametrize(
    ("noun", "name", "fits"),
    [
        ("moggy", "cat face", True),
        ("knife", "kitchen knife", True),
        ("kitchen", "kitchen knife", False),
        ("bow", "bow and arrow", True),
        ("milk", "glass of milk", True),
        ("house cat", "cat", True),
        ("cat burglar", "cat", False),
    ],
)
def test_what_may_mean_a_name(noun: str, name: str, fits: bool) -> None:
    assert may_mean(noun.split(), name.split()) == fits


def test_words_are_needed_where_they_are_asked_for(cache: Path, tmp_path: Path) -> None:
    encoder = HartPipeline.from_pretrained("emoji", device="cpu").text_encoder
    assert encoder is not None
    with pytest.raises(HartError, match="install WordNet"):
        nearest_nouns(PlainEmoji(cache, 1).icons, encoder, tmp_path, lambda word: True)
