"""The suites of this package: what each takes on its command line. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hart.evaluation.suites import CORE, base
from hart.evaluation.suites.base import ImageSetOptions, SamplingOptions, Suite, SuiteOptions
from hart.files import user_path
from hart.strict import require

PER_PROMPT = 4
MJHQ_SIZE = 1024
"""Of the set's own images."""
IMAGENET_IMAGES = 50_000


class AskingOptions(SamplingOptions, kw_only=True):
    """Images of one prompt follow each other; each has a seed of its own."""

    limit: int | None = Field(default=None, ge=1, description="Prompts to use, chosen by the seed; all by default.")
    per_prompt: int = Field(default=PER_PROMPT, ge=1, description="Images of each prompt; 4 as published.")


class TextToImageOptions(SamplingOptions, kw_only=True):
    """The paper does not say which CLIP its scores are from. The default is the most used, and torchmetrics'."""

    data: Path | None = Field(
        default=None,
        description="Folder with the set as published, and any weights by their names; both are fetched once from "
        "their public homes by default.",
    )
    limit: int | None = Field(default=None, ge=1, description="Images to generate; as many as published by default.")
    features: base.Features = "inception-v3"
    clip: str = Field(
        default="openai/clip-vit-large-patch14",
        description="CLIP model of the CLIP score: a folder, a hub id, or none to leave the score out.",
    )
    hps: str | None = Field(
        default=None, description="Also give HPS v2: a folder or hub id with its weights in transformers' layout."
    )
    image_reward: Path | None = Field(default=None, description="Also give ImageReward: the file ImageReward.pt.")
    image_reward_tokenizer: str = Field(
        default="google-bert/bert-base-uncased",
        description="Text tokenizer of ImageReward, which its file does not hold: a folder or hub id.",
    )
    gumbel_smoothing: bool | None = Field(
        default=False, description="Mix codes; the published FIDs are sampled without."
    )

    @property
    def folder(self) -> Path | None:
        """`data` as a path."""
        return None if self.data is None else user_path(self.data)


class TokenizerOptions(ImageSetOptions, SuiteOptions, kw_only=True):
    """The model may be a tokenizer alone."""

    model: base.Model = "emoji"
    size: int | str | None = Field(
        default=None, description="Size of the images in pixels, such as 256 or 192x128; the model's own by default."
    )
    scales: tuple[int, ...] | None = Field(
        default=None, description="Sizes of square token maps, in place of those that follow from the images' size."
    )
    limit: int | None = Field(default=None, ge=1, description="Images to measure; all by default.")
    features: base.Features = "efficientnet-lite0"
    distance: Literal["lpips", "efficientnet_lite0"] = Field(
        default="efficientnet_lite0", description="Perceptual distance; lpips needs weights."
    )
    distance_weights: tuple[Path, ...] = Field(
        default=(), description="File with weights of lpips: VGG-16 and its heads; may be repeated."
    )
    batch_size: base.BatchSize = 8


class GenerationOptions(ImageSetOptions, SamplingOptions, kw_only=True):
    """Captions are taken from the set, chosen by the seed; images are compared with the whole set."""

    limit: int | None = Field(default=None, ge=1, description="Images to generate; by default one for each.")
    features: base.Features = "efficientnet-lite0"
    caption_column: base.Column = ""


class GenevalOptions(AskingOptions, kw_only=True):
    """The detector is the nearest to the published one that transformers has."""

    data: Path | None = Field(
        default=None,
        description="evaluation_metadata.jsonl, or its folder with weights beside it; fetched once by default.",
    )
    detector: str = Field(
        default="facebook/mask2former-swin-small-coco-instance",
        description="Mask2Former for COCO instances: folder or hub id.",
    )
    detector_size: int = Field(default=800, ge=32, description="Pixels that the detector sees; 800 as published.")
    clip: str = Field(default="openai/clip-vit-large-patch14", description="CLIP that names colours: folder or hub id.")
    judge_batch: int = Field(default=1, ge=1, description="Images that the detector sees together.")


class DpgOptions(AskingOptions, kw_only=True):
    """The answering model is not the published one, which transformers does not have."""

    data: Path | None = Field(
        default=None, description="dpg_bench.csv, or its folder with weights beside it; fetched once by default."
    )
    vqa: str = Field(
        default="Salesforce/blip-vqa-capfilt-large", description="BLIP that answers questions: folder or hub id."
    )


class MjhqOptions(TextToImageOptions, kw_only=True):
    """The settings of the published figures are the defaults."""

    features: base.Features = "inception-v3-clean"
    reference_size: int = Field(
        default=MJHQ_SIZE,
        ge=1,
        description="Pixels to which the set's images are first resized; 1024 is their own size.",
    )


class ImageNetOptions(SuiteOptions, kw_only=True):
    """Either a model or samples."""

    model: str | None = Field(
        default=None, description="Class-conditional model: folder or hub id. Generates and measures."
    )
    samples: Path | None = Field(
        default=None, description="Instead of a model: .npz with images of any program. Measures only."
    )
    reference: Path | None = Field(
        default=None,
        description="ADM's reference batch, .npz; VIRTUAL_imagenet256_labeled.npz is fetched once by default.",
    )
    data: Path | None = Field(default=None, description="Folder with that file and any weights of the features.")
    limit: int = Field(
        default=IMAGENET_IMAGES, ge=1, description="Images to generate, as evenly from all classes as possible."
    )
    features: base.Features = "inception-v3"
    guidance: float = Field(default=1.5, description="Guidance scale; the published one by default.")
    gumbel_smoothing: bool = Field(
        default=False,
        description="Mix codes; the published figures are sampled without.",
        json_schema_extra={"flags": ["--gumbel-smoothing/--no-gumbel-smoothing"]},
    )
    discrete_only: base.DiscreteOnly = False
    batch_size: base.BatchSize = 1

    def __post_init__(self) -> None:
        require(
            (self.model is None) != (self.samples is None),
            "give either --model, to generate images, or --samples, to measure existing ones",
        )


class CostOptions(SuiteOptions, kw_only=True):
    """Counted and timed are images with the model's own settings."""

    model: str = Field(
        default="emoji", description="Shipped name, folder or hub id; with --random-weights a preset or a config.json."
    )
    random_weights: bool = Field(
        default=False, description="Use the model's sizes with random weights: nothing is downloaded."
    )
    batch_size: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 8), min_length=1, description="Images generated together, each timed."
    )
    warm_up: int = Field(default=2, ge=0, description="Runs before the clock starts.")
    repeats: int = Field(default=5, ge=1, description="Timed runs of each batch size.")
    dtype: str | None = Field(
        default=None, description="float32, bfloat16 or float16; by default what the device is used with."
    )
    guidance: base.Guidance = None
    discrete_only: base.DiscreteOnly = False


TOKENIZER = Suite("tokenizer", CORE["tokenizer"], TokenizerOptions, "hart.evaluation.suites.tokenizer:run")
GENERATION = Suite("generation", CORE["generation"], GenerationOptions, "hart.evaluation.suites.generation:run")
GENEVAL = Suite("geneval", CORE["geneval"], GenevalOptions, "hart.evaluation.suites.geneval:run")
DPG = Suite("dpg", CORE["dpg"], DpgOptions, "hart.evaluation.suites.dpg:run")
MJHQ = Suite("mjhq", CORE["mjhq"], MjhqOptions, "hart.evaluation.suites.mjhq:run")
COCO = Suite("coco", CORE["coco"], TextToImageOptions, "hart.evaluation.suites.coco:run")
IMAGENET = Suite("imagenet", CORE["imagenet"], ImageNetOptions, "hart.evaluation.suites.imagenet:run")
COST = Suite("cost", CORE["cost"], CostOptions, "hart.evaluation.suites.cost:run")
