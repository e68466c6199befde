"""The training loop's promises, whatever is read: a resumed run is the unbroken one, and what is lost is said."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hart.errors import HartError
from hart.losses.config import TransformerLossConfig
from hart.training.config import ReadingConfig
from toy_training import reading_run, recipe, tiny_tokenizer_recipe, tiny_transformer_recipe
from training_state import assert_resumes, log_lines


@pytest.mark.parametrize("kind", ["streamed", "encoded", "mixed"])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(
    encoded: Path, shards: Path, tmp_path: Path, kind: str
) -> None:
    trainer = {"steps": 6, "checkpoint_every": 3, "log_every": 1}
    if kind == "streamed":
        base = recipe(data=f"pipe:cat {shards}/train-{{0000..0003}}.tar", **trainer)
        given: Any = tiny_tokenizer_recipe(base).replace(reading=ReadingConfig(flip=0.5, shuffle_buffer=4))
    else:
        given = tiny_transformer_recipe(recipe(data=str(encoded / "codes"), **trainer), encoded / "model")
    if kind == "mixed":
        loss = TransformerLossConfig(scale_weights=(2.0, 1.0), cluster_weight=0.5, clusters=4)
        reading = ReadingConfig(also=(given.data,), weights=(0.6, 0.4))
        given = given.replace(reading=reading, loss=loss, text_noise=0.4)

    assert_resumes(partial(reading_run, given), tmp_path / "run", 6)
    if kind == "streamed":
        assert sum(line["damaged"] for line in log_lines(tmp_path / "run")) == 2, (
            "two epochs of twelve, with one damaged image each"
        )


@pytest.mark.parametrize("kind", ["streamed", "encoded"])
def test_a_missing_shard_is_said_and_the_last_checkpoint_kept(
    encoded: Path, shards: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"steps": 9, "checkpoint_every": 1, "log_every": 1, "batch_size": 2}
    name = "train-0002.tar" if kind == "streamed" else "train-00001.safetensors"
    folder = tmp_path / "set"
    shutil.copytree(shards if kind == "streamed" else encoded / "codes", folder)
    if kind == "streamed":
        base = recipe(data=f"{folder}/train-{{0000..0003}}.tar", **trainer)
        given: Any = tiny_tokenizer_recipe(base).replace(reading=ReadingConfig(kind="stream", shuffle_buffer=1))
    else:
        monkeypatch.setattr("hart.data.encoded.OPEN_SHARDS", 1)
        given = tiny_transformer_recipe(recipe(data=str(folder), **trainer), encoded / "model")
    run = reading_run(given, tmp_path / "run", on_log=lambda step, figures: (folder / name).unlink(missing_ok=True))

    with pytest.raises(HartError, match=rf"^step \d: .*{name}.*; the last good checkpoint is .*step-0000000\d\.pt"):
        run.run()
    assert list((tmp_path / "run" / "checkpoints").glob("*.pt"))
