"""Recipes: strict reading, overrides from the command line, and errors that name the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hart.config import ConfigError
from hart.training.config import TokenizerRecipe, TransformerRecipe

RECIPE = """
data = "somewhere"
revive_every = 10

[tokenizer]
scales = [1, 2, 4]
base_channels = 32

[optimizer]
learning_rate = 1e-3

[trainer]
steps = 20
batch_size = 2
checkpoint_every = 20
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_recipe_is_read(recipe: Path) -> None:
    read = TokenizerRecipe.read(str(recipe))
    assert (read.data, read.trainer.steps, read.optimizer.learning_rate) == ("somewhere", 20, 1e-3)
    assert read.tokenizer.scales == (1, 2, 4)
    assert read.discrete_probability == 0.5
    assert TokenizerRecipe.from_dict(read.to_dict()) == read
    of_a_run = recipe.with_suffix(".json")
    of_a_run.write_text(read.to_json())
    assert TokenizerRecipe.read(of_a_run) == read
    assert TokenizerRecipe.read(of_a_run, ("trainer.steps=3",)).trainer.steps == 3


def test_overrides_replace_single_values(recipe: Path) -> None:
    read = TokenizerRecipe.read(
        recipe,
        (
            "trainer.steps=5",
            "optimizer.learning_rate = 2e-4",
            "data=/other/folder",
            "tokenizer.scales=[1, 3]",
            "loss.quantizer=0",
            "decoder_only=true",
            "init_from=emoji",
            "trainer.device = cpu",
            "reading.kind='folder'",
        ),
    )
    assert read.trainer.steps == 5
    assert read.optimizer.learning_rate == 2e-4
    assert read.data == "/other/folder", "text needs no quotes"
    assert read.tokenizer.scales == (1, 3)
    assert read.loss.quantizer == 0.0, "a table that the recipe leaves out is made"
    assert read.decoder_only
    assert (read.trainer.device, read.reading.kind) == ("cpu", "folder")


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("2024", "2024"),
        ("true", "true"),
        ("2024-01-01", "2024-01-01"),
        ("'2024'", "2024"),
        ("a#b", "a#b"),
        ("a=b", "a=b"),
        ("", ""),
        ("5\nx = 3", "5\nx = 3"),
    ],
)
def test_what_is_given_for_a_text_field_stays_text(recipe: Path, text: str, data: str) -> None:
    assert TokenizerRecipe.read(recipe, (f"data={text}",)).data == data
    changed = TokenizerRecipe.read(recipe, ("perceptual={kind='efficientnet_lite0'}", f"init_from={text}"))
    assert changed.init_from == data


def test_the_recipe_of_another_run_may_get_more_tables(recipe: Path, tmp_path: Path) -> None:
    stored = tmp_path / "recipe.json"
    stored.write_text(TokenizerRecipe.read(recipe).to_json())
    changed = TokenizerRecipe.read(stored, ("perceptual.kind=efficientnet_lite0", "perceptual.weight=0.5"))
    assert changed.perceptual is not None and changed.perceptual.weight == 0.5


@pytest.mark.parametrize("text", ["['a', 'b']", "[a,b]", "['a', b]", "a, b", "[a, b,]"])
def test_lists_need_no_quotes_and_brackets(recipe: Path, text: str) -> None:
    for numbers in ("1,2,4", "[1, 2, 4]", " 1, 2,4, "):
        assert TokenizerRecipe.read(recipe, (f"tokenizer.scales={numbers}",)).tokenizer.scales == (1, 2, 4)
    assert TokenizerRecipe.read(recipe, ("reading.weights=1",)).reading.weights == (1.0,)
    assert TokenizerRecipe.read(recipe, (f"reading.also={text}",)).reading.also == ("a", "b")
    for numbers in ("2024_11,1e3", "[2024_11, '1e3']"):
        assert TokenizerRecipe.read(recipe, (f"reading.also={numbers}",)).reading.also == ("2024_11", "1e3")
    assert TokenizerRecipe.read(recipe, ("reading.also=2024_11",)).reading.also == ("2024_11",)
    assert TokenizerRecipe.read(recipe, ("reading.also=[]",)).reading.also == ()
    assert TokenizerRecipe.read(recipe, ("trainer.trackers=[wandb]",)).trainer.trackers == ("wandb",)
    assert TokenizerRecipe.read(recipe, ("reading.aspects=1:1,16:9",)).reading.aspects == ("1:1", "16:9")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.steps", "'trainer.steps' is not of the form key=value"),
        ("trainer.steps=5\nx=3", r"trainer\.steps: expected a whole number"),
        ("trainer.steps=" + "[" * 100_000, "is nested too deeply"),
        ("trainer.steps=" + "9" * 5000, r"trainer\.steps: expected a whole number"),
        ("trainer.peak_tflops=nan", r"trainer\.peak_tflops must be a finite number, not nan"),
        ("trainer.stepz=5", r"recipe\.toml: trainer\.stepz: unknown key \(is trainer\.steps meant"),
        ("max_damaged=0.5", r"max_damaged: unknown key \(is reading.max_damaged meant"),
        ("tokenizer.scales=1,2,x", r"tokenizer\.scales\[2\]: expected a whole number, got 'x'"),
        ("trainer.steps=0", r"trainer\.steps must be at least 1, not 0"),
        ("trainer.trackers=['mlflow']", r"trainer\.trackers\[0\] must be 'tensorboard' or 'wandb', not 'mlflow'"),
        ("optimizer.learning_rate=-1e-3", r"recipe\.toml: optimizer\.learning_rate must be above 0, not -0\.001"),
        ("data.folder=x", "data is not a table"),
        ("perceptual.weight=1", r"perceptual\.kind: missing key"),
        (
            "adversarial={optimizer={learning_rate=1e-4, kind='muon'}}",
            "adversarial.optimizer.kind must be 'adamw'",
        ),
        (
            "adversarial={layers=5, optimizer={learning_rate=1e-4}}",
            "needs images of at least 96 px, not 64: set fewer",
        ),
    ],
)
def test_wrong_overrides_are_named(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenizerRecipe.read(recipe, (override,))


@pytest.mark.parametrize(
    "content",
    [b"data = ", b"\xff", b"x = " + b"[" * 100_000, b"a" * 2**20 + b"\n"],
)  # fmt: skip
def test_what_is_no_recipe_is_named(recipe: Path, content: bytes) -> None:
    recipe.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        TokenizerRecipe.read(recipe)


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
@pytest.mark.parametrize("wanted", [TokenizerRecipe, TransformerRecipe])
def test_a_recipe_of_another_stage_says_which_to_run(stage: str, wanted: Any) -> None:
    path = Path(__file__).parents[2] / "recipes" / "ablations" / f"{stage}.toml"
    if wanted.stage == stage:
        assert wanted.read(path) is not None
        return
    with pytest.raises(ConfigError, match=rf"{stage}\.toml: this recipe is for stage {stage}: run hart train {stage}"):
        wanted.read(path)
