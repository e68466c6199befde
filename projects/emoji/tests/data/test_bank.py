"""Composed scenes become an encoded set that training reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart import HartError
from hart.data import EncodedSet
from hart_emoji.data import bank
from hart_emoji.data.bank import write_bank
from hart_emoji.scene_options import SceneOptions
from tiny import save_model


def write(folder: Path, model: Path, count: int, part: str = "1/1") -> int:
    return write_bank(folder, SceneOptions(count=count, model=str(model), part=part), lambda *_: None).images


def test_scenes_are_encoded_and_the_set_can_be_made_longer(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "default_cache", lambda: cache)
    monkeypatch.setattr(bank, "SHARD", 4)
    model = save_model(tmp_path / "model")
    assert write(tmp_path / "set", model, 4) == 4
    (first,) = (tmp_path / "set").glob("*.safetensors")
    before = first.stat().st_mtime_ns
    write(tmp_path / "set", model, 12, "2/2")
    assert write(tmp_path / "set", model, 12, "1/2") == 12
    assert first.stat().st_mtime_ns == before
    assert len(EncodedSet(tmp_path / "set", "train")) == 12
    write_bank(tmp_path / "plain", SceneOptions(count=4, model=str(model), plain=True), lambda *_: None)
    mixed = EncodedSet(tmp_path / "plain", also=[tmp_path / "set"], parts=(0.6, 0.4))
    assert len(mixed) == 16, "both can be mixed in training"
    for count, part in ((5, "1/1"), (0, "1/1"), (4, "2"), (4, "3/2")):
        with pytest.raises(HartError):
            write(tmp_path / "other", model, count, part)


def test_words_that_are_not_there_are_said_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "load_tokenizer", lambda _: pytest.fail("opened"))
    words = SceneOptions(count=bank.SHARD, plain=True, wordnet=tmp_path / "none")
    with pytest.raises(HartError, match=r"index\.noun: not found; install WordNet"):
        write_bank(tmp_path / "set", words, lambda *_: None)
