"""The suites of this package: their command-line options. Their implementations are imported when they run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hart.config import NumberType
from hart.evaluation.suites import base
from hart.evaluation.suites.base import ImageSetOptions, SamplingOptions, Suite, SuiteOptions
from hart.strict import require

PER_PROMPT = 4
MJHQ_SIZE = 1024
"""Size of the set's own images."""
IMAGENET_IMAGES = 50_000


class JudgedPromptsOptions(SamplingOptions, kw_only=True):
    """Images of one prompt are consecutive; each has its own seed."""

    limit: base.Limit = None
    """Prompts to use, chosen by the seed; all by default."""
    per_prompt: Annotated[int, Field(ge=1)] = PER_PROMPT
    """Images per prompt; 4 as published."""


class TextToImageOptions(SamplingOptions, kw_only=True):
    """The paper does not say which CLIP its scores use. The default is the most common one, and torchmetrics'."""

    data: Path | None = None
    """Folder with the set as published, and any weights by their names; by default both are downloaded once from their
    public homes."""
    limit: base.LimitOfSets = None
    """Images to generate; by default as many as published."""
    features: base.Features = "inception-v3"
    clip: str = "openai/clip-vit-large-patch14"
    """CLIP model of the CLIP score: a folder, a hub id, or none to leave the score out."""
    hps: str | None = None
    """Also report HPS v2: a folder or hub id with its weights in transformers' layout."""
    image_reward: Path | None = None
    """Also report ImageReward: the file ImageReward.pt."""
    image_reward_tokenizer: str = "google-bert/bert-base-uncased"
    """Text tokenizer of ImageReward, not included in its file: a folder or hub id."""
    gumbel_smoothing: bool | None = False
    """Mix codes; the published FIDs are sampled without it."""


class TokenizerOptions(ImageSetOptions, SuiteOptions, kw_only=True):
    """The model may be a tokenizer alone."""

    model: base.Model = "emoji"
    size: int | str | None = None
    """Size of the images in pixels, such as 256 or 192x128; the model's own by default."""
    scales: tuple[int, ...] | None = None
    """Sizes of square token maps, in place of those that follow from the image size."""
    limit: base.LimitOfSets = None
    """Images to measure; all by default."""
    features: base.Features = "efficientnet-lite0"
    distance: Literal["lpips", "efficientnet_lite0"] = "efficientnet_lite0"
    """Perceptual distance; lpips needs weights."""
    distance_weights: tuple[Path, ...] = ()
    """File with weights for lpips: VGG-16 and its heads; may be repeated."""
    batch_size: base.BatchSize = 8


class GenerationOptions(ImageSetOptions, SamplingOptions, kw_only=True):
    """Captions are taken from the set, chosen by the seed; images are compared with the whole set."""

    limit: base.LimitOfSets = None
    """Images to generate; by default one per image of the set."""
    features: base.Features = "efficientnet-lite0"
    caption_column: base.Column = ""


class GenevalOptions(JudgedPromptsOptions, kw_only=True):
    """The detector is the closest to the published one that transformers has."""

    data: Path | None = None
    """evaluation_metadata.jsonl, or its folder with weights beside it; downloaded once by default."""
    detector: str = "facebook/mask2former-swin-small-coco-instance"
    """Mask2Former for COCO instances: folder or hub id."""
    detector_size: Annotated[int, Field(ge=32)] = 800
    """Image size in pixels for the detector; 800 as published."""
    clip: str = "openai/clip-vit-large-patch14"
    """CLIP that names colours: folder or hub id."""
    judge_batch: Annotated[int, Field(ge=1)] = 1
    """Images that the detector sees together."""


class DpgOptions(JudgedPromptsOptions, kw_only=True):
    """The answering model is not the published one, which transformers does not have."""

    data: Path | None = None
    """dpg_bench.csv, or its folder with weights beside it; downloaded once by default."""
    vqa: str = "Salesforce/blip-vqa-capfilt-large"
    """BLIP that answers questions: folder or hub id."""


class MjhqOptions(TextToImageOptions, kw_only=True):
    """The defaults are the settings of the published figures."""

    features: base.Features = "inception-v3-clean"
    reference_size: Annotated[int, Field(ge=1)] = MJHQ_SIZE
    """Size in pixels to which the set's images are resized first; 1024 is their own size."""


class ImageNetOptions(SuiteOptions, kw_only=True):
    """Give either a model or samples."""

    model: str | None = None
    """Class-conditional model: folder or hub id. Generates and measures."""
    samples: Path | None = None
    """Instead of a model: .npz with images from any program. Only measures."""
    reference: Path | None = None
    """ADM's reference batch, .npz; VIRTUAL_imagenet256_labeled.npz is downloaded once by default."""
    data: Path | None = None
    """Folder with that file and any weights for the features."""
    limit: Annotated[int, Field(ge=base.LEAST_IMAGES)] = IMAGENET_IMAGES
    """Images to generate, as evenly from all classes as possible."""
    features: base.Features = "inception-v3"
    guidance: float = 1.5
    """Guidance scale; by default the published one."""
    gumbel_smoothing: Annotated[
        bool, Field(json_schema_extra={"flags": ["--gumbel-smoothing/--no-gumbel-smoothing"]})
    ] = False
    """Mix codes; the published figures are sampled without it."""
    discrete_only: base.DiscreteOnly = False
    batch_size: base.BatchSize = 1

    def __post_init__(self) -> None:
        require(
            (self.model is None) != (self.samples is None),
            "give either --model, to generate images, or --samples, to measure existing ones",
        )


class CostOptions(SuiteOptions, kw_only=True):
    """Images with the model's own settings are counted and timed."""

    model: str = "emoji"
    """Shipped name, folder or hub id; with --random-weights a preset or a config.json."""
    random_weights: bool = False
    """Use the model's sizes with random weights: nothing is downloaded."""
    batch_size: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 8)
    """Images generated together; each batch size is timed."""
    warm_up: Annotated[int, Field(ge=0)] = 2
    """Runs before timing starts."""
    repeats: Annotated[int, Field(ge=1)] = 5
    """Timed runs per batch size."""
    dtype: NumberType = None
    guidance: base.Guidance = None
    discrete_only: base.DiscreteOnly = False


CONTINUES = "A stopped run continues."
SUITES: Mapping[str, Suite[Any]] = {
    name: Suite(name, measures, options, f"hart.evaluation.suites.{name}:run")
    for name, options, measures in (
        (
            "tokenizer",
            TokenizerOptions,
            f"Reconstruction, discrete against hybrid: PSNR, SSIM, perceptual distance, rFID, rKID. {CONTINUES}",
        ),
        (
            "generation",
            GenerationOptions,
            f"Images generated for a set's captions, compared with the set: FID, KID, precision, recall. {CONTINUES}",
        ),
        (
            "geneval",
            GenevalOptions,
            f"GenEval: are the named objects there, in the right number, colours and places? {CONTINUES}",
        ),
        ("dpg", DpgOptions, f"DPG-Bench: questions about images of long prompts. {CONTINUES}"),
        ("mjhq", MjhqOptions, f"MJHQ-30K: FID and KID, over all and by category, and CLIP score. {CONTINUES}"),
        ("coco", TextToImageOptions, f"COCO-30K: FID and KID at 256 px against val2014, and CLIP score. {CONTINUES}"),
        (
            "imagenet",
            ImageNetOptions,
            f"ImageNet 256 px, 50,000 images: FID, sFID, Inception Score, precision, recall. {CONTINUES}",
        ),
        ("cost", CostOptions, "Parameters and MACs by part, latency, throughput and peak memory."),
    )
}
"""The suites of this package, by name."""


def installed_suites() -> dict[str, Suite[Any] | str]:
    """Return the suites of this package, and those that others offer as entry points of the group `hart.suites`, which
    are
    known by their places: NAME = "package.module:SUITE"."""
    return {**{entry.name: entry.value for entry in entry_points(group="hart.suites")}, **SUITES}
