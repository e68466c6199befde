"""What a run learned from is in its checkpoints: a change is refused by name, or accepted by one option."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.errors import HartError
from hart.training.checkpoint import RECIPE_FILE
from hart.training.config import ReadingConfig
from hart.training.task import Origin
from hart.training.trainer import Trainer
from image_files import write_captioned_folder
from toy_training import (
    OPTIMIZER,
    ToyTask,
    reading_run,
    reading_task,
    recipe,
    tiny_encoded_set,
    tiny_tokenizer_recipe,
    tiny_transformer_recipe,
)


def toy(folder: Path, sources: dict[str, Origin] | None = None, **options: Any) -> Trainer:
    given = options.pop("recipe", recipe())
    task = ToyTask(given.optimizer)
    if sources is not None:
        task.sources = sources
    return Trainer(task, given, folder, **options)


OTHER = {"data": Origin("another line", "points on a line")}


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (OTHER, r"data \(points on a line \[a line\] there, points on a line \[another \] now\)"),
        ({"data": Origin("x", "9 points")}, r"data \(points on a line there, 9 points now\)"),
        (OTHER | {"tokenizer": Origin("t", "weights of t")}, r"tokenizer \(none there, weights of t now\)"),
    ],
)
def test_another_origin_is_refused_until_it_is_accepted(tmp_path: Path, sources: dict[str, Origin], said: str) -> None:
    toy(tmp_path).run()
    with pytest.raises(HartError, match=rf"of other data or weights: .*{said}.*go on with --accept-changes"):
        toy(tmp_path, sources)
    notes: list[str] = []
    longer = recipe(steps=7)
    assert toy(tmp_path, sources, accept_changes=True, on_note=notes.append, recipe=longer).step == 6
    assert "resumes with changes: data" in notes[0]
    # from then on it is the run's, also if it ended right there
    toy(tmp_path, sources, recipe=longer).run()
    with pytest.raises(HartError, match="of other data or weights"):
        toy(tmp_path)


def test_the_recipe_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    toy(tmp_path).run()
    (tmp_path / RECIPE_FILE).unlink()
    faster = recipe(OPTIMIZER.replace(learning_rate=0.1, beta1=0.5), steps=8)
    with pytest.raises(HartError, match=r"of another recipe: optimizer\.beta1 \(0\.9 there, 0\.5 now\), optim"):
        toy(tmp_path, recipe=faster)
    (tmp_path / RECIPE_FILE).write_text("not JSON")
    run = toy(tmp_path, recipe=faster, accept_changes=True)
    assert run.step == 6
    assert run.stepper.optimized["model"].optimizer.param_groups[0]["betas"] == (0.5, 0.95), (
        "not that of the checkpoint"
    )
    assert "0.5" in (tmp_path / RECIPE_FILE).read_text()


def test_weights_that_do_not_fit_an_accepted_recipe_are_named(tmp_path: Path) -> None:
    toy(tmp_path).run()
    task = ToyTask()
    task.module.last = torch.nn.Linear(4, 2)
    with pytest.raises(HartError, match=r"its checkpoint does not fit: .*: last\.weight: float32 \(1, 4\) instead of"):
        Trainer(task, recipe(OPTIMIZER.replace(learning_rate=0.1)), tmp_path, accept_changes=True)


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_changed_images_are_noticed(tmp_path: Path, memory_gb: float) -> None:
    write_captioned_folder(tmp_path / "set", 6)
    given = tiny_tokenizer_recipe(recipe(data=str(tmp_path / "set"), steps=1))
    given = given.replace(reading=given.reading.replace(memory_gb=memory_gb))
    reading_run(given, tmp_path / "run").run()
    reading_run(given, tmp_path / "run").run()  # nothing has changed
    first, second = tmp_path / "set" / "train" / "0001.png", tmp_path / "set" / "train" / "0002.png"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(HartError, match=r"run holds a run of other data or weights: data \(folder"):
        reading_run(given, tmp_path / "run").run()


def test_frozen_networks_are_noticed(tmp_path: Path) -> None:
    folder = tiny_encoded_set(tmp_path / "set")
    given = tiny_transformer_recipe(recipe(data=str(folder / "images")), folder / "model")
    tasks = [reading_task(given) for _ in range(3)]
    before = tasks[0].sources
    assert before == tasks[1].sources
    with torch.no_grad():
        next(tasks[1].tokenizer.parameters()).add_(1e-3)
        next(tasks[2].texts.weights.parameters()).add_(1e-3)
    for task, name in ((tasks[1], "tokenizer"), (tasks[2], "text encoder")):
        now = task.sources
        assert {key for key in before if before[key] != now[key]} == {name}


def test_other_words_of_the_text_encoder_are_noticed(tmp_path: Path) -> None:
    folder = tiny_encoded_set(tmp_path / "set")
    given = tiny_transformer_recipe(recipe(data=str(folder / "images"), steps=1), folder / "model")
    reading_run(given, tmp_path / "run").run()
    assert reading_run(given, tmp_path / "run").step == 1
    pieces = folder / "model" / "word_pieces.json"
    content = json.loads(pieces.read_text())
    vocabulary = content["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    pieces.write_text(json.dumps(content))
    with pytest.raises(HartError, match=r"of other data or weights: vocabulary \(words of .*model \["):
        reading_run(given, tmp_path / "run")


def test_a_set_may_be_moved(tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 4)

    def run(name: str) -> Trainer:
        given = tiny_tokenizer_recipe(recipe(data=str(tmp_path / name), steps=1))
        return reading_run(given, tmp_path / "run")

    run("set").run()
    (tmp_path / "set").rename(tmp_path / "moved")
    assert run("moved").step == 1


def test_tokenizer_text_encoder_and_mixed_sets_may_be_moved(tmp_path: Path) -> None:
    folder = tiny_encoded_set(tmp_path / "one")
    shutil.copytree(folder / "codes", folder / "more")

    def run(folder: Path) -> Trainer:
        given = tiny_transformer_recipe(recipe(data=str(folder / "codes"), steps=1), folder / "model")
        given = given.replace(reading=ReadingConfig(also=(str(folder / "more"),)))
        return reading_run(given, tmp_path / "run")

    run(folder).run()
    assert run(folder.rename(tmp_path / "other")).step == 1
