"""Options that several commands share, with the same wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from hart.commands.console import needs_extra
from hart.commands.from_config import SomeOf
from hart.config import Aspect, CacheType, Config, Device, NumberType, SamplingConfig
from hart.errors import HartError
from hart.generation.signing import AbsolutePath, SigningOptions
from hart.sizes import SizeOptions, parsed_size
from hart.strict import Listed, require

SIZE_HELP = "Image size in pixels: one number for a square, or width x height such as 1024x576."
ASPECT_HELP = "Shape of the images, such as 16:9: as many tokens as in the square, which is the model's own or --size."


def _size(given: int | str | None) -> int | str | None:
    if isinstance(given, str):
        parsed_size(given)
    return given


Size = Annotated[
    int | str | None, AfterValidator(_size), Field(description=SIZE_HELP, json_schema_extra={"metavar": "PX|WxH"})
]
AspectRatio = Annotated[Aspect | None, Field(description=ASPECT_HELP, json_schema_extra={"metavar": "W:H"})]

DEFAULT_MODEL, DEFAULT_FOLDER = "emoji", Path("outputs")


class ModelOptions(Config, kw_only=True):
    """Which model runs where. None means the default, or with --like what the image was made with."""

    model: str | None = None
    """Shipped model, folder or Hugging Face id; by default emoji."""
    device: Device = None
    dtype: NumberType = None
    out: Path | None = None
    """Folder for the images, or FILE.png for a single one; by default outputs, or for a file of prompts a folder inside
    it with the file's name."""

    @property
    def source(self) -> str:
        """Return the chosen model."""
        return DEFAULT_MODEL if self.model is None else self.model

    @property
    def place(self) -> Path:
        """Return the chosen folder or file."""
        return DEFAULT_FOLDER if self.out is None else self.out


class LoraOptions(Config, kw_only=True):
    """Adapters to merge into a model."""

    lora: Listed[AbsolutePath] = ()
    """Folder of a LoRA adapter to merge; repeat it to add several."""
    lora_scale: Annotated[float | None, Field(ge=-10, le=10)] = None
    """Strength of the adapters; 1 is as trained, and far from that images are noise."""

    @property
    def strength(self) -> float:
        return 1.0 if self.lora_scale is None else self.lora_scale

    def require_files(self) -> None:
        """Raise `HartError` for missing adapters, before a model is opened, and for a strength without adapters."""
        if self.lora_scale is not None and not self.lora:
            raise HartError("--lora-scale is the strength of an adapter: give --lora too")
        if self.lora:
            from hart.checkpoint.lora import require_lora

            for folder in self.lora:
                require_lora(folder)


class ImageOptions(ModelOptions, LoraOptions, SigningOptions, kw_only=True):
    """How images are generated, whatever they show."""

    negative_prompt: str | None = None
    """What guidance steers away from, for all images."""
    images_per_prompt: Annotated[
        int | None, Field(ge=1, json_schema_extra={"flags": ["-n", "--images-per-prompt"]})
    ] = None
    """Images per prompt; by default 1."""
    seed: Annotated[int | None, Field(ge=0)] = None
    """Seed of the first image, by default 0; image i has the seed plus i."""
    size: Size = None
    aspect: AspectRatio = None
    batch_size: Annotated[int | None, Field(ge=1)] = None
    """Images generated together; by default 1 on a CPU, 4 on a GPU."""
    speed: str | None = None
    """Speed level: exact, compiled (for GPUs), int8 or fp8 (8 bits, slightly different), draft (approximate) or plain;
    by default exact, or int8 for models stored in 8 bits."""
    cache: CacheType | None = None
    """How keys and values are kept: model (in the model's type), bfloat16 or int8; by default as --speed says."""
    tiled: bool = False
    """Decode in strips: the same image, up to rounding, in less memory."""
    offload: bool = False
    """Keep the text encoder off the GPU while it is not in use."""
    random_weights: bool = False
    """Use random weights in place of the model's: for timings, not for images."""

    @property
    def each(self) -> int:
        """Return the number of images per prompt."""
        return self.images_per_prompt or 1

    @property
    def shape(self) -> SizeOptions:
        """Return the size arguments of a call."""
        return {"size": self.size, "aspect": self.aspect}


class GenerateOptions(ImageOptions, kw_only=True):
    """What to generate. None means the default, or with --like what the image was made with."""

    prompts: Annotated[Listed[str], Field(json_schema_extra={"positional": True})] = ()
    """What to generate: text, or class numbers for a class model."""
    best_of: Annotated[int | None, Field(ge=2)] = None
    """Generate this many images for each one, and keep the one that a scorer prefers; see --scorer."""
    scorer: str | None = None
    """clip:SOURCE, a CLIP model's folder or Hugging Face id; by default the scorer that comes with the model."""

    def __post_init__(self) -> None:
        require(self.scorer is None or self.best_of is not None, "--scorer chooses among images: give --best-of too")

    @property
    def count(self) -> int:
        """Return how many images there will be."""
        return len(self.prompts) * self.each

    @property
    def candidates(self) -> int:
        """Return how many images are generated for each one, of which the best is kept."""
        return self.best_of or 1

    def require_files(self) -> None:
        """Raise `HartError` as for adapters, also for a missing scorer."""
        super().require_files()
        if self.scorer is not None:
            with needs_extra("evaluate"):
                from hart.evaluation.reranking import scorer_source
            scorer_source(self.scorer)


SamplingSettings = Annotated[dict[str, Any], SomeOf(SamplingConfig, {"guidance_scale": "--guidance"})]
"""Sampling settings of a call, None for those not given."""
