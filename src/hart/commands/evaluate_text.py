"""`hart evaluate mjhq` and `coco`: text-to-image models on published sets of prompts and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hart.commands.console import model_name, owned, progress, writable_folder
from hart.commands.evaluate import (
    BatchSize,
    DiscreteOnlyOption,
    FeaturesOption,
    GuidanceOption,
    ModelOption,
    OutOption,
    ResamplesOption,
    SeedOption,
    finish,
    sampling_of,
)
from hart.commands.options import DeviceOption
from hart.files import user_path

if TYPE_CHECKING:
    import torch

    from hart.evaluation.scorers import Scorer
    from hart.evaluation.text_to_image import Benchmark

NONE = "none"
DEFAULT_CLIP = "openai/clip-vit-large-patch14"
"""The paper does not say which CLIP its scores are from. This one is the most used, and torchmetrics' default."""
DEFAULT_REWARD_WORDS = "google-bert/bert-base-uncased"

SetOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the set as published, and with weights by their names if they are there; both are fetched "
        "once from their public homes by default."
    ),
]
PromptsOption = Annotated[int | None, typer.Option(min=1, help="Pictures to draw; as many as published by default.")]
SmoothOption = Annotated[
    bool, typer.Option("--smooth/--no-smooth", help="Mix codes; the published FIDs are drawn without.")
]
ClipOption = Annotated[
    str, typer.Option(help="CLIP model of the CLIP score: a folder, a hub id, or none to leave the score out.")
]
HpsOption = Annotated[
    str | None, typer.Option(help="Also give HPS v2: a folder or hub id with its weights in transformers' layout.")
]
ImageRewardOption = Annotated[Path | None, typer.Option(help="Also give ImageReward: the file ImageReward.pt.")]
RewardWordsOption = Annotated[
    str, typer.Option(help="Text tokenizer of ImageReward, which its file does not hold: a folder or hub id.")
]


@dataclass(frozen=True)
class Drawing:
    """What draws, as it was given."""

    model: str
    guidance: float | None
    smooth: bool
    discrete_only: bool
    seed: int
    batch_size: int
    device: str | None


@dataclass(frozen=True)
class ScorerChoice:
    """Which scores of picture and words to give, as they were given."""

    clip: str
    hps: str | None
    image_reward: Path | None
    image_reward_words: str

    def open(self, device: torch.device, data: Path | None) -> list[Scorer]:
        """data: a folder where public weights are looked for before they are fetched."""
        from hart.evaluation.downloads import at_hand
        from hart.evaluation.image_reward import ImageReward
        from hart.evaluation.scorers import ClipScore, HpsV2

        scorers: list[Scorer] = []
        if self.clip != NONE:
            scorers.append(ClipScore(at_hand(self.clip, data), device))
        if self.hps is not None:
            scorers.append(HpsV2(at_hand(self.hps, data), device))
        if self.image_reward is not None:
            scorers.append(ImageReward(user_path(self.image_reward), at_hand(self.image_reward_words, data), device))
        return scorers


def mjhq(
    model: ModelOption = "emoji",
    data: SetOption = None,
    limit: PromptsOption = None,
    features: FeaturesOption = "inception-v3-clean",
    reference_size: Annotated[
        int, typer.Option(min=1, help="Pixels that the set's pictures are first brought to; 1024 is their own size.")
    ] = 1024,
    clip: ClipOption = DEFAULT_CLIP,
    hps: HpsOption = None,
    image_reward: ImageRewardOption = None,
    image_reward_words: RewardWordsOption = DEFAULT_REWARD_WORDS,
    guidance: GuidanceOption = None,
    smooth: SmoothOption = False,
    discrete_only: DiscreteOnlyOption = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-mjhq"),
) -> None:
    """MJHQ-30K: FID and KID, over all and by category, and CLIP score. A stopped run goes on."""
    from hart.evaluation.mjhq import open_mjhq

    writable_folder(out)
    folder = _expanded(data)
    benchmark = open_mjhq(folder, limit, seed, reference_size)
    scorers = ScorerChoice(clip, hps, image_reward, image_reward_words)
    drawing = Drawing(model, guidance, smooth, discrete_only, seed, batch_size, device)
    _evaluate(drawing, folder, benchmark, features, scorers, resamples, out)


def coco(
    model: ModelOption = "emoji",
    data: SetOption = None,
    limit: PromptsOption = None,
    features: FeaturesOption = "inception-v3",
    clip: ClipOption = DEFAULT_CLIP,
    hps: HpsOption = None,
    image_reward: ImageRewardOption = None,
    image_reward_words: RewardWordsOption = DEFAULT_REWARD_WORDS,
    guidance: GuidanceOption = None,
    smooth: SmoothOption = False,
    discrete_only: DiscreteOnlyOption = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-coco"),
) -> None:
    """COCO-30K: FID and KID at 256 px against val2014, and CLIP score. A stopped run goes on."""
    from hart.evaluation.coco import open_coco

    writable_folder(out)
    folder = _expanded(data)
    benchmark = open_coco(folder, limit, seed)
    scorers = ScorerChoice(clip, hps, image_reward, image_reward_words)
    drawing = Drawing(model, guidance, smooth, discrete_only, seed, batch_size, device)
    _evaluate(drawing, folder, benchmark, features, scorers, resamples, out)


def _evaluate(
    drawing: Drawing,
    data: Path | None,
    benchmark: Benchmark,
    features: str,
    scorers: ScorerChoice,
    resamples: int,
    out: Path,
) -> None:
    from hart.devices import resolve_device
    from hart.evaluation.features import open_extractor
    from hart.evaluation.text_to_image import TextToImageOptions, evaluate_text_to_image
    from hart.pipeline import HartPipeline

    where = resolve_device(drawing.device)
    with owned(out, "an evaluation"), progress(f"loading {drawing.model}") as report:
        # what may be missing is looked for before anything is drawn
        extractor = open_extractor(features, where, data)
        judges = scorers.open(where, data)
        pipe = HartPipeline.from_pretrained(drawing.model, device=drawing.device)
        result = evaluate_text_to_image(
            pipe,
            sampling_of(pipe, drawing.guidance, drawing.smooth, drawing.discrete_only),
            benchmark,
            extractor,
            judges,
            out,
            TextToImageOptions(drawing.seed, drawing.batch_size, resamples=resamples),
            {"model": model_name(drawing.model), "data": "public home" if data is None else str(data)},
            report,
        )
    finish(out, result)


def _expanded(path: Path | None) -> Path | None:
    return None if path is None else user_path(path)
