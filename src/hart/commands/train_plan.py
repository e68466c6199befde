"""`hart train --dry-run`: what a run would take. Memory is counted and said at once, time is then measured."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hart.commands.console import progress

if TYPE_CHECKING:
    from hart.training.config import Recipe, TokenizerRecipe, TransformerRecipe
    from hart.training.distributed import Processes
    from hart.training.dry_run import Measurement

LARGE = 60_000_000
"""Parameters above which a dry run measures a model of one and of two blocks and reckons the others from them."""


class Stage(StrEnum):
    """What can be trained, in the order in which a model needs it."""

    tokenizer = "tokenizer"
    transformer = "transformer"


def dry_run_plan(stage: Stage, path: Path, overrides: tuple[str, ...]) -> None:
    """Print what one process of the run would need. Raises `HartError`."""
    from hart.training.config import TokenizerRecipe, TransformerRecipe
    from hart.training.distributed import Processes

    match stage:
        case Stage.tokenizer:
            tokenizer_recipe = TokenizerRecipe.read(path, overrides)
            _plan_tokenizer(tokenizer_recipe, Processes(tokenizer_recipe.trainer))
        case Stage.transformer:
            transformer_recipe = TransformerRecipe.read(path, overrides)
            _plan_transformer(transformer_recipe, Processes(transformer_recipe.trainer))


def _plan_tokenizer(recipe: TokenizerRecipe, processes: Processes) -> None:
    import torch

    from hart.training.dry_run import activation_bytes, measure
    from hart.training.rehearsal import RehearsedTokenizer

    tokens = recipe.tokenizer.schedule.total_tokens
    task = RehearsedTokenizer(recipe, torch.device("cpu"))
    sizes = [(p.numel(), p.requires_grad) for part in task.parts.values() for p in part.module.parameters()]
    trained = sum(count for count, is_trained in sizes if is_trained)
    _print_sizes(recipe, sum(n for n, _ in sizes), trained, tokens, tokenizer_macs(recipe), processes)
    activations = activation_bytes(task, recipe.trainer, _rows_at_once(recipe, processes))
    _print_memory(recipe, sum(n for n, _ in sizes), trained, activations, processes)
    with progress("timing a step"):
        measurement = measure(RehearsedTokenizer(recipe, processes.device), recipe.trainer, processes, tokens)
    _print_time(recipe, measurement, processes, "measured")


def _plan_transformer(recipe: TransformerRecipe, processes: Processes) -> None:
    import torch

    from hart.losses.hart_loss import LARGEST_KEPT_SHARE
    from hart.training.dry_run import activation_bytes, deeper, measure
    from hart.training.rehearsal import RehearsedTransformer, parameter_counts

    parameters, trained = parameter_counts(recipe)
    tokens, depth = recipe.transformer.schedule.total_tokens, recipe.transformer.depth
    _print_sizes(recipe, parameters, trained, tokens, transformer_macs(recipe), processes)
    # the steps that keep most of the last scale must find memory too
    largest = RehearsedTransformer(recipe, torch.device("cpu"), kept=LARGEST_KEPT_SHARE, empty=True)
    activations = activation_bytes(largest, recipe.trainer, _rows_at_once(recipe, processes))
    _print_memory(recipe, parameters, trained, activations, processes)

    def measured(blocks: int) -> Measurement:
        shallow = recipe.replace(transformer=recipe.transformer.replace(depth=blocks))
        return measure(RehearsedTransformer(shallow, processes.device), recipe.trainer, processes, tokens)

    if parameters <= LARGE:
        with progress("timing a step"):
            measurement = measured(depth)
        _print_time(recipe, measurement, processes, "measured")
        return
    with progress("timing a step of one block") as report:
        one = measured(1)
        report(1, 2, "timing a step of two blocks")
        measurement = deeper(one, measured(2), depth)
    _print_time(recipe, measurement, processes, "reckoned from one and two blocks")


def _rows_at_once(recipe: Recipe, processes: Processes) -> int:
    """Pictures that a process computes together."""
    return recipe.trainer.batch_size // (processes.count * recipe.trainer.accumulate)


def _print_sizes(recipe: Recipe, parameters: int, trained: int, tokens: int, macs: int, processes: Processes) -> None:
    trainer = recipe.trainer
    _print_lines(
        {
            "parameters": f"{parameters / 1e6:.2f}M, {trained / 1e6:.2f}M of them trained",
            "tokens": f"{tokens} a picture, {tokens * trainer.batch_size} a step",
            "operations": f"{macs / 1e9:.3g} GMAC a picture forward, three times that with the backward pass",
            "processes": f"{processes.count} ({processes.strategy}), {trainer.precision}, on {processes.device}",
        },
        processes,
    )


def _print_memory(recipe: Recipe, parameters: int, trained: int, activations: int, processes: Processes) -> None:
    from hart.training.dry_run import estimate

    need = estimate(
        parameters,
        trained,
        recipe.optimizer.kind,
        activations,
        processes=processes.count,
        sharded=processes.strategy == "fsdp2",
    )
    _print_lines(
        {
            "memory": f"{_size(need.memory)} a process: weights {_size(need.weights)}, gradients "
            f"{_size(need.gradients)}, optimiser {_size(need.moments)}, average {_size(need.average)}, "
            f"activations {_size(need.activations)}",
            "checkpoint": f"{_size(need.checkpoint)} of disk each, {recipe.trainer.keep_checkpoints} kept",
        },
        processes,
    )


def _print_time(recipe: Recipe, measurement: Measurement, processes: Processes, how: str) -> None:
    trainer = recipe.trainer
    seconds = measurement.seconds_of(trainer.batch_size // processes.count)
    _print_lines(
        {
            "time": f"{seconds:.3g} s a step, {trainer.batch_size / seconds:.3g} pictures/s, "
            f"{duration(seconds * trainer.steps)} for {trainer.steps} steps ({how})",
            "not included": "reading data, encoding texts, sample pictures",
        },
        processes,
    )


def _print_lines(lines: Mapping[str, str], processes: Processes) -> None:
    for name, value in lines.items() if processes.main else ():
        typer.echo(f"{name:<14}{value}")


def tokenizer_macs(recipe: TokenizerRecipe) -> int:
    """Multiply-accumulates of a picture's forward pass in training."""
    from hart.inference.cost import tokenizer_training_macs

    return tokenizer_training_macs(recipe.tokenizer)


def transformer_macs(recipe: TransformerRecipe) -> int:
    """As `tokenizer_macs`, of the mean step."""
    from hart.inference.cost import transformer_training_macs
    from hart.losses.hart_loss import MEAN_KEPT_SHARE, kept_tokens

    last = recipe.transformer.schedule.token_counts[-1]
    if recipe.drop_last_scale:
        last = kept_tokens(MEAN_KEPT_SHARE, last)
    return transformer_training_macs(recipe.transformer, recipe.diffusion, last_tokens=last)


def duration(seconds: float) -> str:
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
