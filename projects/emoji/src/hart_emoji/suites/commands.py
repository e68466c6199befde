"""`hart evaluate agreement`, `sampling` and `copies`: models of emoji, on what `hart data emoji` built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import Report, model_name, needs_extra, owned, progress, writable_folder
from hart.commands.evaluate import (
    BatchSize,
    GuidanceOption,
    ModelOption,
    OutOption,
    ResamplesOption,
    SeedOption,
    SmoothOption,
    finish,
    sampling_of,
)
from hart.commands.options import DeviceOption

if TYPE_CHECKING:
    from hart.evaluation.features import FeatureExtractor
    from hart.evaluation.report import Result
    from hart.pipeline import HartPipeline
    from hart_emoji.suites.emoji_set import EmojiSet

EXTRA = "data"
"""Builds the set, and so is needed for its wording of names."""

EmojiData = Annotated[Path, typer.Option(help="Folder that hart data emoji built.")]


@dataclass(frozen=True)
class Opened:
    """What every suite on emoji needs."""

    pipe: HartPipeline
    emoji: EmojiSet
    extractor: FeatureExtractor
    settings: dict[str, Any]
    report: Report


def agreement(
    data: EmojiData,
    model: ModelOption = "emoji",
    limit: Annotated[int, typer.Option(min=1, help="Prompts of each group at most.")] = 300,
    free_prompts: Annotated[
        Path | None, typer.Option(help="TOML file with free prompts and what is right; none by default.")
    ] = None,
    guidance: GuidanceOption = None,
    smooth: SmoothOption = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-agreement"),
) -> None:
    """How often a drawn emoji looks most like what it was asked for. A stopped run goes on."""
    with needs_extra(EXTRA):
        from hart_emoji.suites.agreement import AgreementOptions, evaluate_agreement

    def measure(opened: Opened) -> Result:
        return evaluate_agreement(
            opened.pipe,
            sampling_of(opened.pipe, guidance, smooth),
            opened.emoji,
            opened.extractor,
            out,
            AgreementOptions(limit, free_prompts, seed, batch_size, resamples),
            opened.settings,
            opened.report,
        )

    _run(data, model, device, out, measure)


def sampling(
    data: EmojiData,
    model: ModelOption = "emoji",
    limit: Annotated[int, typer.Option(min=4, help="Pictures of each variant at most.")] = 300,
    only: Annotated[
        list[str] | None, typer.Option(help="Variant to measure, by name; may be repeated. All by default.")
    ] = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-sampling"),
) -> None:
    """The model's own sampling with one setting changed at a time. What was measured is kept."""
    with needs_extra(EXTRA):
        from hart_emoji.suites.sampling import SamplingOptions, evaluate_sampling
    from hart.evaluation.features import DEFAULT_FEATURES, open_extractor

    def measure(opened: Opened) -> Result:
        return evaluate_sampling(
            opened.pipe,
            opened.emoji,
            opened.extractor,
            open_extractor(DEFAULT_FEATURES, opened.pipe.device),
            out,
            SamplingOptions(limit, tuple(only or ()), seed, batch_size, resamples),
            opened.settings,
            opened.report,
        )

    _run(data, model, device, out, measure)


def copies(
    data: EmojiData,
    model: ModelOption = "emoji",
    limit: Annotated[int, typer.Option(min=1, help="Pictures of each kind at most.")] = 100,
    guidance: GuidanceOption = None,
    smooth: SmoothOption = None,
    seed: SeedOption = 0,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-copies"),
) -> None:
    """Drawn emoji beside the nearest training pictures, and the same concept in all styles."""
    with needs_extra(EXTRA):
        from hart_emoji.suites.copies import CopiesOptions, evaluate_copies

    def measure(opened: Opened) -> Result:
        return evaluate_copies(
            opened.pipe,
            sampling_of(opened.pipe, guidance, smooth),
            opened.emoji,
            opened.extractor,
            out,
            CopiesOptions(limit, seed, batch_size),
            opened.settings,
            opened.report,
        )

    _run(data, model, device, out, measure)


def _run(data: Path, model: str, device: str | None, out: Path, measure: Callable[[Opened], Result]) -> None:
    writable_folder(out)
    from hart.pipeline import HartPipeline
    from hart_emoji.suites.emoji_set import EmojiSet, emoji_extractor

    with owned(out, "an evaluation"), progress(f"loading {model}") as report:
        pipe = HartPipeline.from_pretrained(model, device=device)
        extractor = emoji_extractor(pipe.device)
        report(0, None, "reading the set")
        emoji = EmojiSet(data, pipe.image_size)
        settings = {"model": model_name(model), "data": str(data), "size": pipe.image_size}
        result = measure(Opened(pipe, emoji, extractor, settings, report))
    finish(out, result)
