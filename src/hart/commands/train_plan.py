"""`hart train --dry-run`: what a run would take. Memory is counted and printed at once, then time is measured."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hart.commands.console import progress

if TYPE_CHECKING:
    from hart.training.config import Recipe, TokenizerRecipe, TransformerRecipe
    from hart.training.distributed import DistributedContext

LARGE = 60_000_000
"""Above this many parameters a dry run times models of one and two blocks and extrapolates."""


class Stage(StrEnum):
    """What can be trained, in the order that a model needs."""

    tokenizer = "tokenizer"
    transformer = "transformer"


def recipe_class(stage: Stage) -> type[TokenizerRecipe] | type[TransformerRecipe]:
    from hart.training.config import TokenizerRecipe, TransformerRecipe

    return TokenizerRecipe if stage is Stage.tokenizer else TransformerRecipe


def dry_run_plan(stage: Stage, path: Path, overrides: tuple[str, ...]) -> None:
    """Print what one process of the run would need. Raises `HartError`."""
    from hart.training.config import TransformerRecipe
    from hart.training.distributed import DistributedContext
    from hart.training.dry_run import activation_bytes, at_its_largest, deeper, measure, rehearsed

    recipe = recipe_class(stage).read(path, overrides)
    trainer, distributed = recipe.trainer, DistributedContext(recipe.trainer)
    task = at_its_largest(recipe)
    weights = [p for optimized in task.optimized.values() for p in optimized.module.parameters()]
    parameters, trained = sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad)
    model = recipe.transformer if isinstance(recipe, TransformerRecipe) else recipe.tokenizer
    tokens = model.schedule.total_tokens

    def show(lines: Mapping[str, str]) -> None:
        for name, value in lines.items() if distributed.main else ():
            typer.echo(f"{name:<14}{value}")

    show(_sizes(recipe, parameters, trained, tokens, distributed))
    rows = trainer.batch_size // (distributed.count * trainer.accumulate)  # that one process computes together
    show(_memory(recipe, parameters, trained, activation_bytes(task, trainer, rows), distributed))

    def measured(recipe: Recipe) -> float:
        return measure(rehearsed(recipe, distributed.device), trainer, distributed, tokens)

    if parameters <= LARGE or not isinstance(recipe, TransformerRecipe):
        with progress("timing a step"):
            seconds = measured(recipe)
        show(_time(recipe, seconds, distributed, "measured"))
        return
    shallow = [recipe.replace(transformer=recipe.transformer.replace(depth=blocks)) for blocks in (1, 2)]
    with progress("timing a step of one block") as report:
        one = measured(shallow[0])
        report(1, 2, "timing a step of two blocks")
        seconds = deeper(one, measured(shallow[1]), recipe.transformer.depth)
    show(_time(recipe, seconds, distributed, "extrapolated from one and two blocks"))


def _sizes(
    recipe: Recipe, parameters: int, trained: int, tokens: int, distributed: DistributedContext
) -> dict[str, str]:
    from hart.training.work import work_of

    trainer, work = recipe.trainer, work_of(recipe)
    passes = work.flops / (2 * work.macs)
    return {
        "parameters": f"{parameters / 1e6:.2f}M, {trained / 1e6:.2f}M of them trained",
        "tokens": f"{tokens} per image, {tokens * trainer.batch_size} per step",
        "operations": f"{rounded(work.macs / 1e9)} GMAC per image forward, with backward {passes:.3g} times that",
        "processes": f"{distributed.count} ({distributed.strategy}), {trainer.precision}, on {distributed.device}",
    }


def _memory(
    recipe: Recipe, parameters: int, trained: int, activations: int, distributed: DistributedContext
) -> dict[str, str]:
    from hart.training.dry_run import checkpoint_bytes, memory_of_weights

    split, kind = distributed.count if distributed.strategy == "fsdp2" else 1, recipe.optimizer.kind
    need = memory_of_weights(parameters, trained, kind, split) | {"activations": activations}
    parts = ", ".join(f"{name} {_size(count)}" for name, count in need.items())
    checkpoint = _size(checkpoint_bytes(parameters, trained, kind))
    return {
        "memory": f"{_size(sum(need.values()))} per process: {parts}",
        "checkpoint": f"{checkpoint} on disk each, {recipe.trainer.keep_checkpoints} kept",
    }


def _time(recipe: Recipe, seconds: float, distributed: DistributedContext, how: str) -> dict[str, str]:
    """seconds: what one process takes per image."""
    trainer = recipe.trainer
    seconds *= trainer.batch_size // distributed.count
    return {
        "time": f"{rounded(seconds)} s per step, {rounded(trainer.batch_size / seconds)} images/s, "
        f"{duration(seconds * trainer.steps)} for {trainer.steps} steps ({how})",
        "not included": "reading data, encoding texts, sample images",
    }


def rounded(number: float) -> str:
    """Three digits, and all before the point: 0.0123, 1.23, 1,234."""
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


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
