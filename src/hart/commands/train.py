"""`hart train`: runs a recipe. A run that was stopped goes on where it last saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import needs_extra, writable_folder

if TYPE_CHECKING:
    from hart.training.config import Recipe
    from hart.training.trainer import Task

LOG_EVERY = 25
"""Steps between lines of the text encoder's training; the other stages take it from their recipe."""


class Stage(StrEnum):
    """What can be trained, in the order in which a model needs it."""

    text_encoder = "text-encoder"
    tokenizer = "tokenizer"
    transformer = "transformer"


def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Sizes, data and settings.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and the finished model.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, such as trainer.steps=10."),
    ] = None,
) -> None:
    """Train a stage from a recipe; run it again to go on after a stop."""
    writable_folder(out)
    with needs_extra("train"):
        STAGES[stage](recipe, tuple(overrides or ()), out)
    typer.echo(out)


def _text_encoder(path: Path, overrides: tuple[str, ...], out: Path) -> None:
    from hart.training.config import read_table
    from hart.training.text_distillation import TextDistillationRecipe, distill_text_encoder

    recipe = TextDistillationRecipe.from_dict(read_table(path, overrides))

    def on_step(step: int, figures: dict[str, float]) -> None:
        if step % LOG_EVERY == 0 or step == recipe.steps:
            _print_figures({"step": step, **figures})

    distill_text_encoder(recipe, out, on_step)


def _tokenizer(path: Path, overrides: tuple[str, ...], out: Path) -> None:
    from hart.data.datasets import open_dataset
    from hart.training.config import TokenizerRecipe
    from hart.training.tokenizer_task import TokenizerTask

    recipe = TokenizerRecipe.read(path, overrides)
    _run(TokenizerTask(recipe, open_dataset(Path(recipe.data), "train", recipe.tokenizer.image_size)), recipe, out)


def _transformer(path: Path, overrides: tuple[str, ...], out: Path) -> None:
    from hart.checkpoint.storage import CONFIG_FILE
    from hart.config import TokenizerConfig
    from hart.data.datasets import open_dataset
    from hart.training.config import TransformerRecipe
    from hart.training.hart_task import TransformerTask

    recipe = TransformerRecipe.read(path, overrides)
    size = TokenizerConfig.load(Path(recipe.tokenizer) / CONFIG_FILE).image_size
    _run(TransformerTask(recipe, open_dataset(Path(recipe.data), "train", size)), recipe, out)


def _run(task: Task, recipe: Recipe, out: Path) -> None:
    from hart.training.trainer import Trainer

    Trainer(task, recipe.trainer, recipe.optimizer, out, report=_print_figures).run()


def _print_figures(figures: Mapping[str, Any]) -> None:
    typer.echo("  ".join(f"{name} {_rounded(value)}" for name, value in figures.items()))


def _rounded(value: float | int) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


STAGES: Mapping[Stage, Callable[[Path, tuple[str, ...], Path], None]] = {
    Stage.text_encoder: _text_encoder,
    Stage.tokenizer: _tokenizer,
    Stage.transformer: _transformer,
}
