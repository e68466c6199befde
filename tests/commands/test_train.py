"""`hart train`: recipes, overrides, dry runs, what is printed, and who may use a folder."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from command_line import refused, run
from hart.commands.locks import locked
from hart.commands.train import duration
from hart.errors import HartError

RECIPES = Path(__file__).parents[2] / "projects" / "emoji" / "recipes"
SMALL = (
    "transformer.depth=1", "transformer.width=64", "transformer.heads=2", "diffusion.depth=1", "diffusion.width=32",
    "trainer.compile=false",
)  # fmt: skip


def test_overrides_are_read_and_what_they_refuse_leaves_no_folder(tmp_path: Path) -> None:
    recipe, folder = RECIPES / "tokenizer.toml", tmp_path / "runs" / "one"
    assert "stepz" in refused(run("train", "tokenizer", recipe, "stepz=3", "--out", folder))
    message = refused(run("train", "tokenizer", recipe, f"data='{tmp_path / 'none'}'", "--out", folder))
    assert "none does not exist" in message
    assert not folder.parent.exists()


def test_a_tokenizer_that_is_missing_is_that_of_the_recipe(tmp_path: Path) -> None:
    """Whoever skips a stage has not typed its folder."""
    given = (
        "train",
        "transformer",
        RECIPES / "transformer.toml",
        f"tokenizer='{tmp_path / 'none'}'",
        "--out",
        tmp_path,
    )
    message = refused(run(*given))
    assert message.startswith(f"error: tokenizer of the recipe: model '{tmp_path / 'none'}': there is no such folder")
    assert message.endswith("; train it first, or give another by tokenizer=MODEL")


def test_a_run_may_not_lie_among_the_images_that_it_reads(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    out = tmp_path / "images" / "run"
    assert f"{out}: lies in {tmp_path / 'images'}" in refused(run("train", "tokenizer", recipe, "--out", out))
    assert not out.exists()


def small_recipe(tmp_path: Path) -> Path:
    """A recipe of stage `tokenizer`, with 40 images."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        Image.effect_noise((8, 8), 10 + i).convert("RGB").save(images / f"{i}.png")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
        data = {json.dumps(str(images))}
        [tokenizer]
        scales = [1, 2, 4]
        base_channels = 32
        channel_multipliers = [1, 1]
        residual_blocks = 1
        latent_channels = 4
        codebook_size = 16
        [trainer]
        steps = 50
        batch_size = 2
        log_every = 1
        [optimizer]
        learning_rate = 1e-3
        """
    )
    return recipe


def test_train_writes_a_model_and_prints_its_figures(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    result = run("train", "tokenizer", recipe, "trainer.steps=2", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1", "step 2", str(tmp_path / "run")]
    assert list((tmp_path / "run" / "model").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("init_from={}/none", "/none': there is no such folder"),
        ("init_from=emoji", "init_from emoji: has other sizes: tokenizer."),
        ("perceptual={{weight=1.0, kind='lpips', files=['{}/vgg.pth']}}", "perceptual.files of the recipe: "),
        ("trainer.trackers=wandb", '"wandb" is not installed'),
    ],
)
def test_what_a_recipe_names_and_is_not_there_is_said_before_a_set_is_read(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart.training.image_sources.read_all", lambda *_: pytest.fail("read"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = small_recipe(tmp_path)
    assert said in refused(run("train", "tokenizer", recipe, given.format(tmp_path), "--out", tmp_path / "run"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text_encoder=some one/model", "text_encoder of the recipe: text encoder 'some one/model': there is no such"),
        (
            "text_encoder=someone/model",
            "text_encoder of the recipe: text encoder 'someone/model': is not a folder, and",
        ),
        ("code_corruption=0.1", "code_corruption is for augmented versions: set augmentations to 2 or more"),
        ("transformer.text.width=8", "transformer.text must be width 384 and tokens"),
        ("transformer.latent_channels=4", "tokenizer and transformer differ in latent_channels"),
        ("init_from=emoji; transformer.heads=2", "other sizes: transformer.heads is 4 there and 2 in the recipe"),
        ("init_from=emoji; diffusion.width=8", "other sizes: diffusion.width is 224 there and 8 in the recipe"),
    ],
)
def test_what_a_transformer_cannot_learn_from_is_said_before_a_set_is_listed(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart.training.image_sources.open_source", lambda *_, **__: pytest.fail("listed"))
    monkeypatch.setattr("hart.checkpoint.hub.unreachable", lambda: "no route")
    small_recipe(tmp_path)
    named = (f"data={tmp_path / 'images'}", "tokenizer=emoji", "text_encoder=emoji", "augmentations=1")
    message = refused(
        run("train", "transformer", RECIPES / "transformer.toml", *named, *given.split("; "), "--out", tmp_path / "run")
    )
    assert said in message


def test_another_recipe_is_said_before_its_set_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("train", "tokenizer", small_recipe(tmp_path), "trainer.steps=1", "--out", tmp_path / "run")
    assert run(*command).exit_code == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = (*command, f"data={tmp_path / 'moved'}")
    assert run(*moved, "trainer.steps=2").exit_code == 0  # nothing else has changed
    monkeypatch.setattr("hart.training.image_sources.open_source", lambda *_, **__: pytest.fail("listed"))
    assert "another recipe: trainer.batch_size (2 there, 4 now); choose" in refused(run(*moved, "trainer.batch_size=4"))


def test_a_missing_peft_is_named_before_a_set_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.training.image_sources.read_all", lambda *_: pytest.fail("read"))
    monkeypatch.setitem(sys.modules, "peft", None)
    small_recipe(tmp_path)
    given = (f"data={tmp_path / 'images'}", "tokenizer=emoji", "text_encoder=emoji", "init_from=emoji")
    adapters = (*given, "lora.rank=2", "lora.alpha=2", "--out", tmp_path / "run")
    assert "peft is not installed" in refused(run("train", "transformer", RECIPES / "transformer.toml", *adapters))


@pytest.mark.parametrize("name", ["checkpoints", "model", "samples"])
def test_a_file_where_the_run_makes_a_folder_is_said_before_training(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    result = run("train", "tokenizer", small_recipe(tmp_path), "--out", tmp_path / "run")
    assert result.exit_code == 2 and result.stdout == ""
    said = f"error: {tmp_path / 'run' / name}: is a file, where the run makes a folder: remove it, or choose another"
    assert said in result.stderr


def test_an_output_that_cannot_be_written_is_said_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = ("train", "tokenizer", tmp_path / "none.toml", "--out", tmp_path / "file" / "run")
    assert "cannot write there" in refused(run(*given))


def test_a_full_disk_behind_the_output_costs_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, print_line = small_recipe(tmp_path), typer.echo

    def full(line: Any, **options: Any) -> None:
        if str(line).startswith("step 1"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "standard output")
        print_line(line, **options)

    monkeypatch.setattr(typer, "echo", full)
    result = run("train", "tokenizer", recipe, "trainer.steps=2", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "note: step 1: figures cannot be printed any more (No space left on device)" in result.stderr
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run")


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_a_dry_run_says_what_a_recipe_takes_without_its_data(stage: str) -> None:
    sizes = {
        "tokenizer": ("tokenizer.base_channels=32", "tokenizer.channel_multipliers=[1,1]", "perceptual.weight=0"),
        "transformer": SMALL,
    }
    small = ("trainer.batch_size=2", "trainer.accumulate=1", *sizes[stage])
    result = run("train", stage, RECIPES / f"{stage}.toml", "--dry-run", "data='nowhere'", *small)
    assert result.exit_code == 0, result.output
    said = {line.split()[0] for line in result.stdout.splitlines()}
    assert {"parameters", "tokens", "memory", "checkpoint", "time"} <= said


def test_an_option_and_the_key_that_it_sets_are_not_both_taken(tmp_path: Path) -> None:
    command = ("train", "tokenizer", small_recipe(tmp_path), "--out", tmp_path / "run")
    for option, key in ((("--init-from", "emoji"), "init_from"), (("--size", 16), "tokenizer.scales")):
        said = refused(run(*command, *option, f"{key}=1,2"))
        assert f"{option[0]} sets {key} too: give one of them" in said


def test_the_scales_of_another_size_follow_from_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.training.dry_run.measure", lambda *_: 1.0)
    small = ("tokenizer=emoji", *SMALL, "trainer.batch_size=2", "trainer.accumulate=1")
    result = run("train", "transformer", RECIPES / "transformer.toml", "--dry-run", "--size", 256, *small)
    assert result.exit_code == 0, result.output
    # 1, 2, 3, 4, 6, 8, 11 and 16
    assert "507 per image" in result.stdout
    for size, said in ((100, "multiples of 16 px"), (16, "from 32")):
        assert said in refused(run("train", "tokenizer", RECIPES / "tokenizer.toml", "--dry-run", "--size", size))


def test_a_dry_run_of_huge_images_tries_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[int]()
    monkeypatch.setattr("hart.training.dry_run.measure", lambda *given: tried.append(given[3]) or 1.0)
    small = ("tokenizer.base_channels=32", "perceptual.weight=0")
    result = run("train", "tokenizer", RECIPES / "tokenizer.toml", "--dry-run", "--size", 16384, *small)
    assert result.exit_code == 0, result.output
    assert tried and max(tried) <= 4096
    assert "2406242 per image" in result.stdout
    assert f"on images of {tried[0]:,} tokens, in proportion to the operations" in result.stdout


def test_training_without_a_folder_is_refused() -> None:
    assert "--out is missing" in refused(run("train", "tokenizer", "none.toml")), "before anything is read"


def test_a_dry_run_says_memory_before_it_measures_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise HartError("measuring")

    monkeypatch.setattr("hart.training.dry_run.measure", slow)
    result = run("train", "transformer", RECIPES / "transformer.toml", "--dry-run", *SMALL)
    assert (result.exit_code, result.stderr) == (2, "error: measuring\n")
    said = [line.split()[0] for line in result.stdout.splitlines()]
    assert said == ["parameters", "tokens", "operations", "processes", "memory", "checkpoint"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path, "training"):
        for line in (
            ("train", "tokenizer", RECIPES / "tokenizer.toml", "--out", tmp_path),
            ("evaluate", "cost", "--out", tmp_path),
        ):
            assert f"is already running there, by process {os.getpid()} on " in refused(run(*line))


def test_durations_are_said_as_people_say_them() -> None:
    said = {40: "40 s", 750: "12 min", 11_100: "3 h 05 min", 200_000: "2.31 days", 103_852_800: "1,202 days"}
    assert {seconds: duration(seconds) for seconds in said} == said
