"""`hart train`: runs a recipe, or says what it would take. A stopped run resumes from its last checkpoint.

For `--dry-run`, memory is counted and printed at once, then time is measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hart.commands.console import needs_extra, note, owned, progress, prompt_notes, say
from hart.commands.from_config import options_from_config
from hart.config import Config
from hart.errors import HartError
from hart.files import require_writable
from hart.sizes import ImageSize, scales_of_size
from hart.strict import byte_count, counted, rounded

if TYPE_CHECKING:
    from hart.training.config import StagedRecipe
    from hart.training.distributed import DistributedContext
    from hart.training.image_sources import TrainingData
    from hart.training.progress import StepReport
    from hart.training.task import Task

LARGE = 60_000_000
"""Above this many parameters, a dry run times models of one and two blocks and extrapolates."""
Stage = Literal["tokenizer", "transformer"]
"""What can be trained, in the order in which a model needs it."""


class TrainOptions(Config, kw_only=True):
    """Options of `hart train`, besides the recipe and its changes."""

    out: Path | None = None
    """Folder for checkpoints, log and the finished model."""
    init_from: str | None = None
    """Model to start from, also of a lower resolution; the same as init_from=MODEL."""
    size: int | None = None
    """Image size in pixels, from which the scales follow; by default the recipe's own."""
    dry_run: bool = False
    """Print parameters, memory and time; train nothing, read no data."""
    accept_changes: bool = False
    """Resume even if settings, data or frozen networks differ from the checkpoint's."""


@options_from_config
def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Recipe with sizes, data and settings.")],
    options: TrainOptions,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as trainer.steps=10.")
    ] = None,
) -> None:
    """Train a stage from a recipe. The same command resumes a stopped run.

    Ctrl-C stops after the current step and saves a checkpoint.

    On several GPUs or machines: torchrun --nproc-per-node N -m hart train ...
    """
    with needs_extra("train"), warnings.catch_warnings():
        # torch's fused RMSNorm does not take bfloat16 with the float32 weights of autocast
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        if options.dry_run:
            _say_needs(_changed(stage, recipe, tuple(overrides or ()), options))
            return
        if options.out is None:
            raise HartError("--out is missing: give the folder for checkpoints, log and the finished model")
        require_writable(options.out)
        changed = _changed(stage, recipe, tuple(overrides or ()), options)
        if _run(changed, options.out, accept_changes=options.accept_changes):
            typer.echo(options.out)


def _changed(stage: Stage, path: Path, overrides: tuple[str, ...], options: TrainOptions) -> StagedRecipe:
    """Return the recipe with all changes; the scales of another image size follow from its own and the tokenizer."""
    from hart.checkpoint.loading import tokenizer_config
    from hart.training.config import TRAIN_FIRST, TokenizerRecipe, TransformerRecipe, named_by

    kind = TokenizerRecipe if stage == "tokenizer" else TransformerRecipe
    for option, value, key in (
        ("--init-from", options.init_from, "init_from"),
        ("--size", options.size, f"{stage}.scales"),
    ):
        if value is not None and any(override.partition("=")[0].strip() == key for override in overrides):
            raise HartError(f"{option} sets {key} too: give one of them")
    if options.init_from is not None:
        overrides = (*overrides, f"init_from={options.init_from}")
    recipe = kind.read(path, overrides)
    if options.size is None:
        return recipe
    if isinstance(recipe, TokenizerRecipe):
        own, coder = recipe.tokenizer.scales, recipe.tokenizer
    else:
        with named_by("tokenizer", TRAIN_FIRST):
            own, coder = recipe.transformer.scales, tokenizer_config(recipe.tokenizer)
    scales = scales_of_size(own, coder.downsampling, options.size)
    return kind.read(path, (*overrides, f"{stage}.scales={list(scales)}"))


def _run(recipe: StagedRecipe, out: Path, *, accept_changes: bool) -> bool:
    """Train. Returns True in the process that reports."""
    from hart.training.checkpoint import RunFolder
    from hart.training.config import TransformerRecipe
    from hart.training.distributed import DistributedContext
    from hart.training.progress import work_of
    from hart.training.tokenizer_task import TokenizerTask
    from hart.training.trackers import require_trackers
    from hart.training.trainer import Trainer
    from hart.training.transformer_task import TransformerTask

    require_trackers(recipe.trainer.trackers)
    if not accept_changes:
        RunFolder(out, recipe.trainer.keep_checkpoints).require_settings(type(recipe).stage, recipe)
    distributed = DistributedContext(recipe.trainer)
    with ExitStack() as stack:
        if distributed.main:  # the processes of one run share it
            stack.enter_context(owned(out, "training"))
        # once all models are found to fit
        data = lambda sizes: stack.enter_context(_data(recipe, sizes, out, distributed))  # noqa: E731
        if isinstance(recipe, TransformerRecipe):
            task: Task = TransformerTask(recipe, data, distributed.device)
        else:
            task = TokenizerTask(recipe, data, distributed.device)
        on_step = stack.enter_context(_progress(recipe, show=distributed.main))
        stack.enter_context(prompt_notes())
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
    recipe: StagedRecipe, sizes: Sequence[ImageSize], out: Path, distributed: DistributedContext
) -> Iterator[TrainingData]:
    """Open the recipe's data. Notes say what it is and, at the end, which images were damaged."""
    from hart.data.samples import first_reasons
    from hart.training.image_sources import open_training_data

    data = open_training_data(recipe, sizes, out=out, rank=distributed.rank, world=distributed.count)
    if distributed.main:
        note(f"data: {data.description}")
    try:
        yield data
    finally:
        data.close()
        if distributed.main and data.damaged:
            skipped = counted(len(data.damaged), "damaged image")
            note(f"data: this process skipped {skipped} ({first_reasons(data.damaged)})")


@contextmanager
def _progress(recipe: StagedRecipe, *, show: bool) -> Iterator[Callable[[StepReport], None]]:
    """Show a bar on stderr with speed, MFU and loss."""
    steps = recipe.trainer.steps
    with progress("training") if show else nullcontext(lambda *_: None) as report:

        def on_step(step: StepReport) -> None:
            said = [f"step {step.step}/{steps}", f"{rounded(step.images_per_second)} images/s"]
            if step.mfu is not None:
                said.append(f"MFU {step.mfu:.0%}")
            if "loss" in step.figures:
                said.append(f"loss {step.figures['loss']:.4g}")
            report(step.step, steps, "  ".join(said))

        yield on_step


def _print_figures(step: int, figures: Mapping[str, float]) -> None:
    try:
        say("  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in figures.items())]))
    except OSError as error:  # a full disk behind the output is no reason to lose the steps since the last checkpoint
        note(f"step {step}: figures cannot be printed any more ({error.strerror}): they are in the log of the run")


def _say_needs(recipe: StagedRecipe) -> None:
    """Print what one process of the run would need. Raises `HartError`."""
    from hart.training import dry_run
    from hart.training.config import TransformerRecipe
    from hart.training.distributed import DistributedContext
    from hart.training.progress import work_of

    trainer, distributed = recipe.trainer, DistributedContext(recipe.trainer)
    task = dry_run.at_its_largest(recipe)
    weights = [p for optimized in task.optimized.values() for p in optimized.module.parameters()]
    parameters, trained = sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad)
    tokens, work = dry_run.tokens_of(recipe), work_of(recipe)

    def show(name: str, value: str) -> None:
        if distributed.main:
            typer.echo(f"{name:<14}{value}")

    passes = work.flops / (2 * work.macs)
    show("parameters", f"{parameters / 1e6:.2f}M, {trained / 1e6:.2f}M of them trained")
    show("tokens", f"{tokens} per image, {tokens * trainer.batch_size} per step")
    show("operations", f"{rounded(work.macs / 1e9)} GMAC per image forward, with backward {passes:.3g} times that")
    show("processes", f"{distributed.count} ({distributed.strategy}), {trainer.precision}, on {distributed.device}")
    split, kind = distributed.count if distributed.strategy == "fsdp2" else 1, recipe.optimizer.kind
    rows = trainer.batch_size // (distributed.count * trainer.accumulate)  # that one process computes together
    need = dry_run.memory_of_weights(parameters, trained, kind, split) | {
        "activations": dry_run.activations_of(recipe, rows)
    }
    parts = ", ".join(f"{name} {byte_count(count)}" for name, count in need.items())
    show("memory", f"{byte_count(sum(need.values()))} per process: {parts}")
    on_disk = byte_count(dry_run.checkpoint_bytes(parameters, trained, kind))
    show("checkpoint", f"{on_disk} on disk each, {trainer.keep_checkpoints} kept")

    tried = dry_run.at_a_size_to_try(recipe)

    def measured(recipe: StagedRecipe) -> float:
        task = dry_run.rehearsed(recipe, distributed.device)
        return dry_run.measure(task, trainer, distributed, dry_run.tokens_of(recipe))

    with progress("timing a step"):
        if parameters <= LARGE or not isinstance(tried, TransformerRecipe):
            an_image, how = measured(tried), "measured"
        else:
            sizes = tried.transformer
            one, two = (measured(tried.replace(transformer=sizes.replace(depth=blocks))) for blocks in (1, 2))
            an_image = one + (sizes.depth - 1) * max(two - one, 0.0)
            how = "extrapolated from one and two blocks"
    if tried is not recipe:
        an_image *= work.flops / work_of(tried).flops
        how += f", on images of {counted(dry_run.tokens_of(tried), 'token')}, in proportion to the operations"
    seconds = an_image * (trainer.batch_size // distributed.count)
    speed = f"{rounded(seconds)} s per step, {rounded(trainer.batch_size / seconds)} images/s"
    show("time", f"{speed}, {duration(seconds * trainer.steps)} for {counted(trainer.steps, 'step')} ({how})")
    show("not included", "reading data, encoding texts, sample images")


def duration(seconds: float) -> str:
    """1,202 days, 3 h 05 min, 12 min, 40 s"""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{rounded(minutes / 1440)} days"
