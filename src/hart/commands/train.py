"""`hart train`: runs a recipe, or says what it would take. A run that was stopped goes on where it last saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import needs_extra, note, prompt_notes, writable_folder
from hart.errors import HartError

if TYPE_CHECKING:
    from hart.data.loader import Condition
    from hart.training.config import Recipe, TokenizerRecipe, TransformerRecipe
    from hart.training.distributed import Processes
    from hart.training.dry_run import Measurement
    from hart.training.image_sources import TrainingData
    from hart.training.progress import StepReport
    from hart.training.task import Task

LOG_EVERY = 25
"""Steps between lines of the text encoder's training; the other stages take it from their recipe."""
LARGE = 60_000_000
"""Parameters above which a dry run measures a model of one and of two blocks and reckons the others from them."""


class Stage(StrEnum):
    """What can be trained, in the order in which a model needs it."""

    text_encoder = "text-encoder"
    tokenizer = "tokenizer"
    transformer = "transformer"


def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Sizes, data and settings.")],
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoints, log and the finished model.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, such as trainer.steps=10."),
    ] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Model to start from, also one of a lower resolution; as init_from=MODEL.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the pictures in pixels; scales follow from the recipe's. Its own by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say parameters, memory and time; train nothing, read no data.")
    ] = False,
) -> None:
    """Train a stage from a recipe; run it again to go on after a stop.

    On several GPUs or machines: accelerate launch -m hart train ...
    """
    changes = (*(overrides or ()), *([f"init_from={init_from}"] if init_from is not None else []))
    with needs_extra("train"), _quiet_norms():
        if size is not None:
            changes = (*changes, _scales_override(stage, recipe, changes, size))
        if dry_run:
            _dry_run(stage, recipe, changes)
            return
        if out is None:
            raise HartError("--out is missing: give the folder for checkpoints, log and the finished model")
        writable_folder(out)
        if _run(stage, recipe, changes, out):
            typer.echo(out)


@contextmanager
def _quiet_norms() -> Iterator[None]:
    """Keeps from the user that torch's fused RMSNorm does not serve bfloat16 beside the float32 weights of autocast."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        yield


def _scales_override(stage: Stage, path: Path, overrides: tuple[str, ...], size: int) -> str:
    """The override of a recipe that makes its scales those of pictures of `size` pixels."""
    from hart.presets import scales_of_size
    from hart.training.config import TokenizerRecipe, TransformerRecipe
    from hart.training.starting import load_tokenizer

    match stage:
        case Stage.text_encoder:
            raise HartError("--size is for the tokenizer and the transformer: a text encoder sees no pictures")
        case Stage.tokenizer:
            coder = TokenizerRecipe.read(path, overrides).tokenizer
            scales = coder.scales
        case Stage.transformer:
            recipe = TransformerRecipe.read(path, overrides)
            scales, coder = recipe.transformer.scales, load_tokenizer(recipe.tokenizer).config
    return f"{stage.value}.scales={list(scales_of_size(scales, coder.downsampling, size))}"


def _run(stage: Stage, path: Path, overrides: tuple[str, ...], out: Path) -> bool:
    """Train; whether this is the process that reports."""
    match stage:
        case Stage.text_encoder:
            return _text_encoder(path, overrides, out)
        case Stage.tokenizer:
            return _tokenizer(path, overrides, out)
        case Stage.transformer:
            return _transformer(path, overrides, out)


def _text_encoder(path: Path, overrides: tuple[str, ...], out: Path) -> bool:
    from hart.training.config import read_table
    from hart.training.text_distillation import TextDistillationRecipe, distill_text_encoder

    recipe = TextDistillationRecipe.from_dict(read_table(path, overrides))

    def on_step(step: int, figures: dict[str, float]) -> None:
        if step % LOG_EVERY == 0 or step == recipe.steps:
            _print_figures({"step": step, **figures})

    distill_text_encoder(recipe, out, on_step)
    return True


def _tokenizer(path: Path, overrides: tuple[str, ...], out: Path) -> bool:
    from hart.training.config import TokenizerRecipe
    from hart.training.distributed import Processes
    from hart.training.tokenizer_task import TokenizerTask

    recipe = TokenizerRecipe.read(path, overrides)
    processes = Processes(recipe.trainer)
    with _data(recipe, recipe.tokenizer.image_size, "none", processes) as data:
        task = TokenizerTask(recipe, data, processes.device)
        return _train(task, recipe, out, processes, _tokenizer_macs(recipe))


def _transformer(path: Path, overrides: tuple[str, ...], out: Path) -> bool:
    from hart.training.config import TransformerRecipe
    from hart.training.distributed import Processes
    from hart.training.hart_task import TransformerTask
    from hart.training.starting import load_tokenizer
    from hart.training.token_sources import condition_of

    recipe = TransformerRecipe.read(path, overrides)
    # the recipe's scales decide the size: a tokenizer serves any resolution
    tokenizer = load_tokenizer(recipe.tokenizer).config.replace(scales=recipe.transformer.scales)
    processes = Processes(recipe.trainer)
    with _data(recipe, tokenizer.image_size, condition_of(recipe), processes) as data:
        task = TransformerTask(recipe, data, processes.device)
        return _train(task, recipe, out, processes, _transformer_macs(recipe))


@contextmanager
def _data(recipe: Recipe, size: int, condition: Condition, processes: Processes) -> Iterator[TrainingData]:
    """The recipe's data; says what it is, and at the end what of it was damaged."""
    from hart.training.image_sources import open_training_data

    data = open_training_data(recipe, size, condition, rank=processes.rank, world=processes.count)
    if processes.main:
        note(f"data: {data.description}")
    try:
        yield data
    finally:
        data.close()
        if processes.main and data.damaged:
            shown = "; ".join(f"{damage.key}: {damage.reason}" for damage in data.damaged[:3])
            note(f"data: this process passed over {len(data.damaged)} damaged pictures ({shown})")


def _train(task: Task, recipe: Recipe, out: Path, processes: Processes, macs: int) -> bool:
    from hart.training.trainer import Trainer

    with _progress(recipe, show=processes.main) as on_step, prompt_notes():
        trainer = Trainer(
            task,
            recipe,
            out,
            processes,
            macs=macs,
            on_step=on_step,
            on_log=lambda step, figures: _print_figures({"step": step, **figures}),
        )
        trainer.run()
    return processes.main


@contextmanager
def _progress(recipe: Recipe, *, show: bool) -> Iterator[Callable[[StepReport], None]]:
    """A bar on stderr with speed, time left and MFU; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task("", total=recipe.trainer.steps)

        def on_step(report: StepReport) -> None:
            said = [f"{report.images_per_second:.3g} pictures/s", f"{_duration(report.seconds_left)} left"]
            if report.mfu is not None:
                said.append(f"MFU {report.mfu:.0%}")
            bar.update(
                task, completed=report.step, description="  ".join([*said, f"loss {report.figures['loss']:.4g}"])
            )

        yield on_step


def _dry_run(stage: Stage, path: Path, overrides: tuple[str, ...]) -> None:
    """Print what one process of the run would need."""
    from hart.training.config import TokenizerRecipe, TransformerRecipe
    from hart.training.distributed import Processes

    match stage:
        case Stage.text_encoder:
            raise HartError("--dry-run is for the tokenizer and the transformer; the text encoder takes minutes")
        case Stage.tokenizer:
            tokenizer_recipe = TokenizerRecipe.read(path, overrides)
            processes = Processes(tokenizer_recipe.trainer)
            plan = _plan_tokenizer(tokenizer_recipe, processes)
            recipe: Recipe = tokenizer_recipe
        case Stage.transformer:
            transformer_recipe = TransformerRecipe.read(path, overrides)
            processes = Processes(transformer_recipe.trainer)
            plan = _plan_transformer(transformer_recipe, processes)
            recipe = transformer_recipe
    if processes.main:
        _print_plan(recipe, plan, processes)


@dataclass(frozen=True)
class _Plan:
    """What a dry run found out."""

    parameters: int
    trained: int
    tokens: int
    macs: int
    activations: int
    measurement: Measurement
    blocks_measured: bool


def _plan_tokenizer(recipe: TokenizerRecipe, processes: Processes) -> _Plan:
    import torch

    from hart.training.dry_run import activation_bytes, measure
    from hart.training.rehearsal import RehearsedTokenizer

    tokens = recipe.tokenizer.schedule.total_tokens
    task = RehearsedTokenizer(recipe, processes.device)
    sizes = [(p.numel(), p.requires_grad) for part in task.parts.values() for p in part.module.parameters()]
    measurement = measure(task, recipe.trainer, processes, tokens)
    activations = activation_bytes(
        RehearsedTokenizer(recipe, torch.device("cpu")), recipe.trainer, _rows_at_once(recipe, processes)
    )
    trained = sum(count for count, is_trained in sizes if is_trained)
    return _Plan(sum(n for n, _ in sizes), trained, tokens, _tokenizer_macs(recipe), activations, measurement, False)


def _plan_transformer(recipe: TransformerRecipe, processes: Processes) -> _Plan:
    import torch

    from hart.losses.hart_loss import LARGEST_KEPT_SHARE
    from hart.training.dry_run import activation_bytes, deeper, measure
    from hart.training.rehearsal import RehearsedTransformer, parameter_counts

    parameters, trained = parameter_counts(recipe)
    tokens, depth = recipe.transformer.schedule.total_tokens, recipe.transformer.depth

    def measured(blocks: int) -> Measurement:
        shallow = recipe.replace(transformer=recipe.transformer.replace(depth=blocks))
        return measure(RehearsedTransformer(shallow, processes.device), recipe.trainer, processes, tokens)

    # the steps that keep most of the last scale must find memory too
    largest = RehearsedTransformer(recipe, torch.device("cpu"), kept=LARGEST_KEPT_SHARE, empty=True)
    activations = activation_bytes(largest, recipe.trainer, _rows_at_once(recipe, processes))
    large = parameters > LARGE
    measurement = deeper(measured(1), measured(2), depth) if large else measured(depth)
    return _Plan(parameters, trained, tokens, _transformer_macs(recipe), activations, measurement, large)


def _rows_at_once(recipe: Recipe, processes: Processes) -> int:
    """Pictures that a process computes together."""
    return recipe.trainer.batch_size // (processes.count * recipe.trainer.accumulate)


def _print_plan(recipe: Recipe, plan: _Plan, processes: Processes) -> None:
    from hart.training.dry_run import estimate

    trainer = recipe.trainer
    need = estimate(
        plan.parameters,
        plan.trained,
        recipe.optimizer.kind,
        trainer,
        plan.measurement,
        plan.activations,
        processes=processes.count,
        sharded=processes.strategy == "fsdp2",
    )
    how = "reckoned from one and two blocks" if plan.blocks_measured else "measured"
    lines = {
        "parameters": f"{plan.parameters / 1e6:.2f}M, {plan.trained / 1e6:.2f}M of them trained",
        "tokens": f"{plan.tokens} a picture, {plan.tokens * trainer.batch_size} a step",
        "operations": f"{plan.macs / 1e9:.3g} GMAC a picture forward, three times that with the backward pass",
        "processes": f"{processes.count} ({processes.strategy}), {trainer.precision}, on {processes.device}",
        "memory": f"{_size(need.memory)} a process: weights {_size(need.weights)}, gradients {_size(need.gradients)}, "
        f"optimiser {_size(need.moments)}, average {_size(need.average)}, "
        f"activations {_size(need.activations)}",
        "checkpoint": f"{_size(need.checkpoint)} of disk each, {trainer.keep_checkpoints} kept",
        "time": f"{need.step_seconds:.3g} s a step, {trainer.batch_size / need.step_seconds:.3g} pictures/s, "
        f"{_duration(need.step_seconds * trainer.steps)} for {trainer.steps} steps ({how})",
        "not included": "reading data, encoding texts, sample pictures",
    }
    for name, value in lines.items():
        typer.echo(f"{name:<14}{value}")


def _tokenizer_macs(recipe: TokenizerRecipe) -> int:
    from hart.cost import tokenizer_training_macs

    return tokenizer_training_macs(recipe.tokenizer)


def _transformer_macs(recipe: TransformerRecipe) -> int:
    from hart.cost import transformer_training_macs
    from hart.losses.hart_loss import MEAN_KEPT_SHARE, kept_tokens

    last = recipe.transformer.schedule.token_counts[-1]
    if recipe.drop_last_scale:
        last = kept_tokens(MEAN_KEPT_SHARE, last)
    return transformer_training_macs(recipe.transformer, recipe.diffusion, last_tokens=last)


def _duration(seconds: float) -> str:
    """3 h 05 min, 12 min, 40 s"""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


def _size(count: int) -> str:
    """12.3 MB, 4.56 GB"""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _print_figures(figures: Mapping[str, Any]) -> None:
    typer.echo("  ".join(f"{name} {_rounded(value)}" for name, value in figures.items()))


def _rounded(value: float | int) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
