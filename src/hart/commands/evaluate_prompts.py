"""`hart evaluate geneval` and `hart evaluate dpg`: how well pictures follow their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hart.commands.console import model_name, owned, progress, writable_folder
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

PromptLimit = Annotated[int | None, typer.Option(min=1, help="Prompts to draw, chosen by the seed; all by default.")]
PerPrompt = Annotated[int, typer.Option(min=1, help="Pictures of each prompt; 4 as published.")]


def geneval(
    data: Annotated[
        Path | None,
        typer.Option(help="evaluation_metadata.jsonl, or its folder with weights beside it; fetched once by default."),
    ] = None,
    model: ModelOption = "emoji",
    limit: PromptLimit = None,
    per_prompt: PerPrompt = 4,
    detector: Annotated[
        str, typer.Option(help="Mask2Former for COCO instances: folder or hub id.")
    ] = "facebook/mask2former-swin-small-coco-instance",
    detector_size: Annotated[int, typer.Option(min=32, help="Pixels that the detector sees; 800 as published.")] = 800,
    clip: Annotated[
        str, typer.Option(help="CLIP that names colours: folder or hub id.")
    ] = "openai/clip-vit-large-patch14",
    guidance: GuidanceOption = None,
    smooth: SmoothOption = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    judge_batch: Annotated[int, typer.Option(min=1, help="Pictures that the detector sees together.")] = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-geneval"),
) -> None:
    """GenEval: are the named objects there, as many, in the named colours and places? A stopped run goes on."""
    writable_folder(out)
    from hart.devices import resolve_device
    from hart.evaluation.alignment.asking import AskingOptions
    from hart.evaluation.alignment.colours import ClipColours
    from hart.evaluation.alignment.detection import Mask2FormerDetector
    from hart.evaluation.alignment.geneval import evaluate_geneval
    from hart.evaluation.alignment.geneval_rules import PROMPTS, read_prompts
    from hart.evaluation.alignment.prompt_files import located
    from hart.evaluation.downloads import at_hand
    from hart.pipeline import HartPipeline

    where = resolve_device(device)
    with owned(out, "an evaluation"), progress(f"loading {model}") as report:
        file = located(PROMPTS, data)
        prompts = read_prompts(file)
        pipe = HartPipeline.from_pretrained(model, device=device)
        result = evaluate_geneval(
            pipe,
            sampling_of(pipe, guidance, smooth),
            prompts,
            Mask2FormerDetector(at_hand(detector, data), where, detector_size),
            ClipColours(at_hand(clip, data), where),
            out,
            AskingOptions(limit, per_prompt, seed, batch_size, judge_batch, resamples),
            {"model": model_name(model), "prompts": str(file), "size": pipe.image_size},
            report,
        )
    finish(out, result)


def dpg(
    data: Annotated[
        Path | None, typer.Option(help="dpg_bench.csv, or its folder with weights beside it; fetched once by default.")
    ] = None,
    model: ModelOption = "emoji",
    limit: PromptLimit = None,
    per_prompt: PerPrompt = 4,
    vqa: Annotated[
        str, typer.Option(help="BLIP that answers questions: folder or hub id.")
    ] = "Salesforce/blip-vqa-capfilt-large",
    guidance: GuidanceOption = None,
    smooth: SmoothOption = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-dpg"),
) -> None:
    """DPG-Bench: questions about pictures of long prompts. A stopped run goes on."""
    writable_folder(out)
    from hart.devices import resolve_device
    from hart.evaluation.alignment.answers import BlipAnswers
    from hart.evaluation.alignment.asking import AskingOptions
    from hart.evaluation.alignment.dpg import evaluate_dpg
    from hart.evaluation.alignment.dpg_rules import QUESTIONS, read_questions
    from hart.evaluation.alignment.prompt_files import located
    from hart.evaluation.downloads import at_hand
    from hart.pipeline import HartPipeline

    where = resolve_device(device)
    with owned(out, "an evaluation"), progress(f"loading {model}") as report:
        file = located(QUESTIONS, data)
        prompts = read_questions(file)
        pipe = HartPipeline.from_pretrained(model, device=device)
        result = evaluate_dpg(
            pipe,
            sampling_of(pipe, guidance, smooth),
            prompts,
            BlipAnswers(at_hand(vqa, data), where),
            out,
            AskingOptions(limit, per_prompt, seed, batch_size, resamples=resamples),
            {"model": model_name(model), "questions": str(file), "size": pipe.image_size},
            report,
        )
    finish(out, result)
