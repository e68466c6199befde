"""The training loop's promises, whatever is read: a resumed run is the unbroken one, and what is lost is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.errors import HartError
from hart.losses.config import TransformerLossConfig
from hart.training.config import ReadingConfig
from hart.training.image_sources import (
    TrainingData,
    open_training_data,
)
from hart.training.tokenizer_task import TokenizerTask
from hart.training.trainer import Trainer
from hart.training.transformer_task import TransformerTask
from toy_training import recipe, tiny_tokenizer_recipe, tiny_transformer_recipe


def opened(given: Any, condition: Any = "none") -> TrainingData:
    return open_training_data(given, 8, condition)


def final(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)["weights"]


def log_lines(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


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

    def run() -> Trainer:
        data = opened(given, "none" if kind == "streamed" else "caption")
        task: Any = TokenizerTask(given, data) if kind == "streamed" else TransformerTask(given, data)
        return Trainer(task, given, tmp_path / "run")

    run().run()
    whole, lines = final(tmp_path / "run", 6), log_lines(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000006.pt").unlink()
    again = run()
    assert again.step == 3
    again.run()
    resumed = final(tmp_path / "run", 6)
    assert log_lines(tmp_path / "run") == lines
    for name, value in whole["parts"]["model"]["module"].items():
        assert torch.equal(value, resumed["parts"]["model"]["module"][name])
    if kind == "streamed":
        assert sum(line["damaged"] for line in lines) == 2, "two epochs of twelve, with one damaged image each"


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
        task: Any = TokenizerTask(given, opened(given))
    else:
        monkeypatch.setattr("hart.data.encoded.OPEN_SHARDS", 1)
        given = tiny_transformer_recipe(recipe(data=str(folder), **trainer), encoded / "model")
        task = TransformerTask(given, opened(given, "caption"))

    def lose(step: int, figures: dict[str, float]) -> None:
        (folder / name).unlink(missing_ok=True)

    with pytest.raises(HartError, match=rf"^step \d: .*{name}.*; the last good checkpoint is .*step-0000000\d\.pt"):
        Trainer(task, given, tmp_path / "run", on_log=lose).run()
    assert list((tmp_path / "run" / "checkpoints").glob("*.pt"))
