"""`hart train`: runs a recipe, or says what it would take. A stopped run resumes from its last checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hart.commands.console import needs_extra, note, owned, prompt_notes, writable_folder
from hart.commands.from_config import options_from_config
from hart.commands.train_plan import Stage, dry_run_plan, duration, recipe_class, rounded
from hart.config import Config
from hart.errors import HartError

if TYPE_CHECKING:
    from hart.config import TokenizerConfig
    from hart.data.samples import Condition
    from hart.sizes import ImageSize
    from hart.training.config import Recipe, TokenizerRecipe, TransformerRecipe
    from hart.training.distributed import DistributedContext
    from hart.training.image_sources import TrainingData
    from hart.training.progress import StepReport
    from hart.training.task import Task


class TrainOptions(Config, kw_only=True):
    """Of `hart train`, besides the recipe and its changes."""

    out: Path | None = None
    """Folder for checkpoints, log and the finished model."""
    init_from: str | None = None
    """Model to start from, also of a lower resolution; the same as init_from=MODEL."""
    size: int | None = None
    """Image size in pixels, from which the scales follow; by default the recipe's own."""
    dry_run: bool = False
    """Print parameters, memory and time; train nothing, read no data."""
    accept_changes: bool = False
    """Resume although settings, data or frozen networks differ from the checkpoint's."""


@options_from_config
def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe with sizes, data and settings.")],
    options: TrainOptions,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, such as trainer.steps=10."),
    ] = None,
) -> None:
    """Train a stage from a recipe. The same command resumes a run that was stopped.

    Ctrl-C stops after the current step and saves a checkpoint.

    On several GPUs or machines: accelerate launch -m hart train ...
    """
    changes = tuple(overrides or ())
    if options.init_from is not None:
        changes = (*changes, f"init_from={options.init_from}")
    with needs_extra("train"), _quiet_norms():
        if options.size is not None:
            changes = (*changes, _scales_override(stage, recipe, changes, options.size))
        if options.dry_run:
            dry_run_plan(stage, recipe, changes)
            return
        if options.out is None:
            raise HartError("--out is missing: give the folder for checkpoints, log and the finished model")
        writable_folder(options.out)
        if _run(stage, recipe, changes, options.out, accept_changes=options.accept_changes):
            typer.echo(options.out)


@contextmanager
def _quiet_norms() -> Iterator[None]:
    """Hides torch's warning that its fused RMSNorm does not take bfloat16 beside the float32 weights of autocast."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        yield


def _coder(recipe: TokenizerRecipe | TransformerRecipe) -> TokenizerConfig:
    """The tokenizer of a recipe's images; its scales are the recipe's, since a tokenizer serves any resolution."""
    from hart.checkpoint.loading import load_tokenizer
    from hart.training.config import TokenizerRecipe

    if isinstance(recipe, TokenizerRecipe):
        return recipe.tokenizer
    return load_tokenizer(recipe.tokenizer).config.replace(scales=recipe.transformer.scales)


def _scales_override(stage: Stage, path: Path, overrides: tuple[str, ...], size: int) -> str:
    """The override that gives a recipe the scales of images of `size` pixels."""
    from hart.sizes import scales_of_size

    coder = _coder(recipe_class(stage).read(path, overrides))
    return f"{stage.value}.scales={list(scales_of_size(coder.scales, coder.downsampling, size))}"


def _run(stage: Stage, path: Path, overrides: tuple[str, ...], out: Path, *, accept_changes: bool) -> bool:
    """Train. True in the process that reports."""
    from hart.sizes import aspect_sizes
    from hart.training.config import TransformerRecipe
    from hart.training.distributed import DistributedContext
    from hart.training.hart_task import TransformerTask
    from hart.training.token_sources import condition_of
    from hart.training.tokenizer_task import TokenizerTask
    from hart.training.trainer import Trainer
    from hart.training.work import work_of

    recipe = recipe_class(stage).read(path, overrides)
    coder = _coder(recipe)
    distributed = DistributedContext(recipe.trainer)
    condition = condition_of(recipe) if isinstance(recipe, TransformerRecipe) else "none"
    with (
        owned(out, "training") if distributed.main else nullcontext(),  # the processes of one run share it
        _data(recipe, aspect_sizes(coder, recipe.reading.aspects), condition, distributed) as data,
    ):
        if isinstance(recipe, TransformerRecipe):
            task: Task = TransformerTask(recipe, data, distributed.device)
        else:
            task = TokenizerTask(recipe, data, distributed.device)
        with _progress(recipe, show=distributed.main) as on_step, prompt_notes():
            Trainer(
                task,
                recipe,
                out,
                distributed,
                work=work_of(recipe),
                on_step=on_step,
                on_log=_print_figures,
                on_note=note,
                accept_changes=accept_changes,
            ).run()
    return distributed.main


@contextmanager
def _data(
    recipe: Recipe, sizes: Sequence[ImageSize], condition: Condition, distributed: DistributedContext
) -> Iterator[TrainingData]:
    """The recipe's data. Notes say what it is and, at the end, which images were damaged."""
    from hart.data.samples import first_reasons
    from hart.training.image_sources import open_training_data

    data = open_training_data(recipe, sizes, condition, rank=distributed.rank, world=distributed.count)
    if distributed.main:
        note(f"data: {data.description}")
    try:
        yield data
    finally:
        data.close()
        if distributed.main and data.damaged:
            note(f"data: this process skipped {len(data.damaged)} damaged images ({first_reasons(data.damaged)})")


@contextmanager
def _progress(recipe: Recipe, *, show: bool) -> Iterator[Callable[[StepReport], None]]:
    """A bar on stderr with speed, time left and MFU; nothing if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task("", total=recipe.trainer.steps)

        def on_step(report: StepReport) -> None:
            said = [f"{rounded(report.images_per_second)} images/s", f"{duration(report.seconds_left)} left"]
            if report.mfu is not None:
                said.append(f"MFU {report.mfu:.0%}")
            if "loss" in report.figures:
                said.append(f"loss {report.figures['loss']:.4g}")
            bar.update(task, completed=report.step, description="  ".join(said))

        yield on_step


def _print_figures(step: int, figures: Mapping[str, float]) -> None:
    typer.echo("  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in figures.items())]))
