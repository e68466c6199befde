"""Sizes and choices of every part, as frozen dataclasses that are saved as JSON beside the weights.

A field exists only if a published checkpoint or a recipe of this project uses it. Reading is strict (`hart.strict`):
an unknown key, a missing key or a wrong value is a `ConfigError` that names it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hart.grids import MAX_GRID_SIZE, MAX_SCALES, ScaleSchedule, parsed_aspect
from hart.strict import Config, ConfigError, Listed, counted, require

# fmt: off
__all__ = [
    "ClassConditioning", "Config", "ConfigError", "HartConfig", "LoraTarget", "ResidualDiffusionConfig",
    "SamplingConfig", "TextConditioning", "TextEncoderConfig", "TokenizerConfig", "TransformerConfig", "require",
]
# fmt: on

MAX_SEED = 2**63 - 1
"""Seeds from 0 to this value work with every generator: NumPy takes no negative seeds, torch no more bits."""

# Far above every published model: larger values mean a damaged file, found before memory is allocated for it.
Width = Annotated[int, Field(ge=1, le=2**16)]
WidthOrNone = Annotated[int, Field(ge=0, le=2**16)]
Depth = Annotated[int, Field(ge=1, le=512)]
Heads = Annotated[int, Field(ge=1, le=2**12)]
Channels = Annotated[int, Field(ge=1, le=2**12)]
Codes = Annotated[int, Field(ge=1, le=2**20)]
Tokens = Annotated[int, Field(ge=1, le=2**20)]
Ratio = Annotated[int, Field(ge=1, le=64)]
DiffusionSteps = Annotated[int, Field(ge=1, le=10**5)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Fraction = Annotated[float, Field(ge=0, le=1)]

Rank = Annotated[int, Field(ge=1, le=2**16)]
LoraTarget = Literal["attention", "mlp", "word_embed"]
"""Linear layers of the transformer that adapters apply to, see `hart.checkpoint.lora.LAYERS`."""


def _schedule(scales: tuple[int, ...]) -> tuple[int, ...]:
    ScaleSchedule.square(scales)
    return scales


def _odd(value: int) -> int:
    require(value % 2 == 1, f"must be odd, not {value}")
    return value


def _aspect(text: str) -> str:
    parsed_aspect(text)
    return text


def _require_multiple(config: Config, name: str, of: str) -> None:
    value, part = getattr(config, name), getattr(config, of)
    require(value % part == 0, f"{name} must be a multiple of {of} ({part}), not {value}")


Aspect = Annotated[str, AfterValidator(_aspect)]
"""Width and height, e.g. `16:9`, see `hart.grids.parsed_aspect`."""
Scales = Annotated[Listed[int], AfterValidator(_schedule)]
"""Sizes of square token maps, see `ScaleSchedule.square`."""
Style = Annotated[str, Field(min_length=1, max_length=100)]
"""Words by which training captions name a style, e.g. `noto style`; in a prompt they come last, after a comma."""


class _Scaled(Config):
    """Base of parts that work on token maps."""

    scales: Scales

    @property
    def schedule(self) -> ScaleSchedule:
        """Return the square schedule that the model is trained on."""
        return ScaleSchedule.square(self.scales)


class TokenizerConfig(_Scaled):
    """The autoencoder and its multi-scale quantiser (paper, section 3.1; the defaults are the release's sizes)."""

    base_channels: Channels = 160
    channel_multipliers: Annotated[Listed[Ratio], Field(min_length=1, max_length=12)] = (1, 1, 2, 2, 4)
    residual_blocks: Depth = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    norm_groups: Channels = 32
    """Groups of every GroupNorm. With as many groups as channels, each is normalised alone, which loses colours."""
    latent_channels: Channels = 32
    codebook_size: Codes = 4096
    shared_phi: Depth = 4
    """Number of convolutions phi that the scales share."""
    phi_weight: Fraction = 0.5
    """phi(h) = (1 - phi_weight) h + phi_weight conv(h)."""
    quant_conv_kernel: Annotated[Ratio, AfterValidator(_odd)] = 3
    commitment_weight: Annotated[float, Field(ge=0)] = 0.25
    base_scales: Annotated[Listed[int], AfterValidator(lambda scales: scales and _schedule(scales))] = ()
    """Scales of a smaller size, for a model tuned from that size to a larger one: larger images take their coarse codes
    (all but those of the last of these scales) from the image downscaled to it, which the model already knows."""
    patch_size: Ratio = 1
    """Side of the squares of pixels that the first convolution reads, and the last one writes, as channels: larger
    images from feature maps of the same size (as in diffusers' AutoencoderKLWan)."""
    output_padding: Literal["zeros", "replicate"] = "zeros"
    """Padding of the decoder's last convolution. "replicate" keeps plain backgrounds plain up to the edge."""

    def __post_init__(self) -> None:
        _require_multiple(self, "base_channels", "norm_groups")

    @property
    def downsampling(self) -> int:
        """Return pixels per latent position, along one side."""
        return self.patch_size * self.map_downsampling

    @property
    def map_downsampling(self) -> int:
        """Return positions of the largest maps (first and last convolution) per latent position, along one side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def image_size(self) -> int:
        """Return width and height of this schedule's images in pixels."""
        return self.downsampling * self.scales[-1]


class TextConditioning(Config):
    """Text features (S tokens of width E) placed before the image tokens."""

    width: Width = 1536
    tokens: Tokens = 300
    norm: bool = True
    """RMSNorm on the text features before they are projected."""


class ClassConditioning(Config):
    """One learned embedding per class, and one for 'no class'."""

    num_classes: Annotated[int, Field(ge=1, le=2**24)] = 1000


class TransformerConfig(_Scaled):
    """The scalable-resolution transformer (paper, section 3.2). Exactly one of `text`, `classes` is given."""

    latent_channels: Channels = 32
    codebook_size: Codes = 4096
    width: Width = 1536
    depth: Depth = 24
    heads: Heads = 24
    text: TextConditioning | None = None
    classes: ClassConditioning | None = None
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm with a weight, or LayerNorm without (VAR)."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] = 4.0
    """MLP width over model width; SwiGLU takes 2/3 of it, rounded up to a multiple of 256."""
    qk_norm: bool = False
    level_embedding: Literal["sinusoidal", "table"] = "sinusoidal"
    position: Literal["rotary", "absolute"] = "rotary"
    position_span: Annotated[int, Field(ge=0, le=MAX_GRID_SIZE)] = 0
    """Grid on which rotary positions count: the last scale's, as in the paper (0), or one of this size for images of
    any size. Then coarse scales look alike at every size, and weights tuned to another size keep what they learned."""
    modulation: Literal["none", "linear", "table", "shared"] = "none"
    """AdaLN of the blocks: none; a linear layer per block; a table per block, added to the pooled context; or a table
    per block, added to the output of one linear layer that all blocks share (VAR at 512 px)."""
    modulation_pooling: Literal["mean", "max"] = "mean"
    """How text tokens are pooled for the blocks' modulation; `max` requires the linear kind."""
    masked_last_scale: bool = False
    """Each MaskGIT step of the last scale sees the codes of earlier steps, and the residual diffusion sees all codes;
    in the paper no token of a scale sees the others' codes (HMAR, 2506.04421, masks every scale like this)."""

    def __post_init__(self) -> None:
        require((self.text is None) != (self.classes is None), "give either text or classes")
        if self.classes is None:
            require(self.modulation != "shared", "modulation 'shared' requires class conditioning")
            require(self.position != "absolute", "position 'absolute' requires class conditioning")
        require(self.position == "rotary" or not self.position_span, "position_span requires rotary positions")
        require(
            self.modulation == "linear" or self.modulation_pooling == "mean",
            "modulation_pooling 'max' requires modulation 'linear'",
        )
        require(self.mlp_width >= 1, f"mlp_ratio must give the MLP a width of at least 1, not {self.mlp_ratio}")
        require(not self.masked_last_scale or self.position == "rotary", "masked_last_scale requires rotary positions")
        _require_multiple(self, "width", "heads")
        head_width = self.width // self.heads
        require(
            self.position == "absolute" or head_width % 4 == 0,
            f"heads: rotary positions need a head width that 4 divides, not {head_width}",
        )

    @property
    def levels(self) -> int:
        """Return the levels of a table of level embeddings: one per scale, and one for given tokens."""
        return len(self.scales) + self.masked_last_scale

    @property
    def given_level(self) -> int:
        """Return the level of given tokens of a masked last scale."""
        return self.most_scales

    @property
    def most_scales(self) -> int:
        """Return how many scales this model has level embeddings for."""
        return len(self.scales) if self.level_embedding == "table" else MAX_SCALES

    def check_schedule(self, schedule: ScaleSchedule) -> None:
        """Raise `ConfigError` for grids that this model has no learned positions or levels for."""
        require(
            self.position == "rotary" or schedule == self.schedule,
            f"this model has learned the positions of the scales {self.schedule}, and takes no others",
        )
        require(
            len(schedule) <= self.most_scales,
            f"this model has learned {counted(len(self.scales), 'level')}: {len(schedule)} scales are too many",
        )

    @property
    def context_tokens(self) -> int:
        """Return S, the number of tokens in front of the image tokens; 1 for a class."""
        return 1 if self.text is None else self.text.tokens

    @property
    def mlp_width(self) -> int:
        if self.mlp == "gelu":
            return round(self.width * self.mlp_ratio)
        return 256 * -(-int(2 * self.mlp_ratio * self.width / 3) // 256)


class ResidualDiffusionConfig(Config):
    """The MLP that samples the continuous residual of the last scale (paper, section 3.3)."""

    width: Width = 1024
    depth: Depth = 6
    training_steps: DiffusionSteps = 1000
    sampling_steps: DiffusionSteps = 8
    tokens_scale: Annotated[float, Field(gt=0)] = 0.6
    """Residual tokens are divided by this before the diffusion sees them."""
    batch_multiplier: Width = 4
    """Timesteps sampled per token in a training step."""

    def __post_init__(self) -> None:
        require(
            self.sampling_steps <= self.training_steps,
            f"sampling_steps must be at most training_steps ({self.training_steps}), not {self.sampling_steps}",
        )


class TextEncoderConfig(Config):
    """The text encoder that reads a model's prompts.

    `compact` is this project's small encoder, stored with the model (see `hart.text_encoder.compact`); `qwen2` is any
    Qwen2 causal language model that transformers loads from `source` (hub id or folder); `random` gives random
    features, so that a model with random weights can be stored and opened again.
    """

    kind: Literal["compact", "qwen2", "random"]
    tokens: Tokens
    """Prompts are padded or truncated to this many tokens."""
    source: str = ""
    """Hugging Face id or folder of a `qwen2` encoder; for a folder beside the model's weights, its name there."""
    instruction: bool = False
    """Put the enhancement instruction before the prompt, as the released weights expect."""
    vocabulary_size: Annotated[int, Field(ge=0, le=2**22)] = 0
    """Number of word pieces of a `compact` encoder. This and the sizes below are 0 for the other kinds."""
    embedding_width: WidthOrNone = 0
    """Width of the word-piece embeddings, which a linear layer projects to `width`."""
    width: WidthOrNone = 0
    depth: Annotated[int, Field(ge=0, le=512)] = 0
    heads: Annotated[int, Field(ge=0, le=2**12)] = 0
    output_width: WidthOrNone = 0
    """Width of the text features of a `compact` or `random` encoder."""
    seed: Seed = 0
    """Seed of a `random` encoder."""

    def __post_init__(self) -> None:
        sizes = "vocabulary_size", "embedding_width", "width", "depth", "heads", "output_width"
        if self.kind == "qwen2":
            require(bool(self.source), "source: a qwen2 encoder needs a hub id or a folder")
            for name in sizes:
                require(getattr(self, name) == 0, f"{name}: sizes are for compact encoders")
            return
        require(not self.source and not self.instruction, "source and instruction are for qwen2 encoders")
        for name in sizes if self.kind == "compact" else ("output_width",):
            require(getattr(self, name) >= 1, f"{name} must be at least 1 in a {self.kind} encoder")
        if self.kind == "compact":
            _require_multiple(self, "width", "heads")


Device = Annotated[
    str | None, Field(description="cpu, cuda, cuda:1 or mps; by default CUDA if there is one, else the CPU.")
]
NumberType = Annotated[
    str | None, Field(description="float32, bfloat16 or float16; by default bfloat16 on CUDA, else float32.")
]
"""Device and number type options of commands and servers, see `hart.devices`."""
CacheType = Literal["model", "bfloat16", "int8"]
"""How keys and values are kept during generation: in the model's number type or in a narrower one."""


class SamplingConfig(Config):
    """How images are generated unless the caller chooses otherwise (appendix of the paper, section 5)."""

    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 4.5
    """g in (1 + g) conditional - g unconditional, as in the HART paper; in diffusers it is g + 1. 0 turns it off."""
    top_k: Annotated[int, Field(ge=0, le=2**20), AfterValidator(lambda count: count or None)] | None = 600
    """Sample from this many of the likeliest codes; hybrid models use half as many from the eighth scale on. 0 keeps
    all codes."""
    top_p: Annotated[float, Field(gt=0, le=1), AfterValidator(lambda share: share if share < 1 else None)] | None = None
    """Sample from the likeliest codes with this total probability. 1 keeps all codes."""
    gumbel_smoothing: bool = True
    """Mix the embeddings of all codes by Gumbel softmax instead of using the sampled code's."""
    maskgit_steps: Tokens = 1
    """Number of MaskGIT steps at the last scale."""
    diffusion_steps: DiffusionSteps | None = None
    """Sampling steps of the residual diffusion; by default the model's own, `sampling_steps`."""
    discrete_only: bool = False
    """Omit the residual tokens (the paper's ablation)."""
    unguided_scales: Annotated[int, Field(ge=0, le=64)] = 0
    """Approximate: sample this many of the last scales without guidance, at half the cost (Switti, 2412.01819)."""
    greedy_scales: Annotated[int, Field(ge=0, le=64)] = 0
    """Take the likeliest code of every token at this many of the last scales: fewer artefacts, less varied details."""


class HartConfig(Config):
    """A whole model: the content of `config.json` beside the weights."""

    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    diffusion: ResidualDiffusionConfig | None = None
    """None: discrete tokens only, as in VAR and in the paper's ablation."""
    text_encoder: TextEncoderConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    aspects: Listed[Aspect] = ()
    """Aspect ratios, e.g. 16:9, that it was trained at, by default the square; it generates any (`hart.sizes`)."""
    styles: Listed[Style] = ()
    """Styles that prompts can ask for, offered on the page of `hart serve`."""
    dequantize: bool = False
    """Convert layers stored in 8 bits to ordinary ones when the model opens, so that images are the same on all
    processors and only files are smaller. Otherwise such a model opens at level `int8`."""
    format_version: Literal[1] = 1
    """Version of the file format."""

    def __post_init__(self) -> None:
        for name in ("scales", "latent_channels", "codebook_size"):
            ours, theirs = getattr(self.tokenizer, name), getattr(self.transformer, name)
            require(ours == theirs, f"tokenizer and transformer differ in {name}: {ours} and {theirs}: make them equal")
        self.check_sampling(self.sampling)

    def check_sampling(self, sampling: SamplingConfig, schedule: ScaleSchedule | None = None) -> None:
        """Raise `ConfigError` for settings that this model cannot sample `schedule` with, by default its own."""
        schedule = schedule or self.transformer.schedule
        require(
            sampling.maskgit_steps == 1 or self.hybrid or self.transformer.masked_last_scale,
            "maskgit_steps: this model has no residual diffusion and samples its last scale in 1 step",
        )
        require(
            sampling.diffusion_steps is None or self.hybrid, "diffusion_steps: this model has no residual diffusion"
        )
        for name, most, what in (
            ("maskgit_steps", schedule.final.tokens, "tokens of the last scale"),
            ("diffusion_steps", self.diffusion.training_steps if self.diffusion else 0, "of training"),
            ("unguided_scales", len(schedule), "scales of the image"),
            ("greedy_scales", len(schedule), "scales of the image"),
        ):
            count = getattr(sampling, name) or 0
            require(count <= most, f"{name}: {count} are more than the {most} {what}")

    @property
    def num_classes(self) -> int | None:
        """Return how many classes a class-conditional model knows; None for a text model."""
        classes = self.transformer.classes
        return None if classes is None else classes.num_classes

    def diffusion_steps(self, sampling: SamplingConfig) -> int:
        """Return the denoising steps of the residual with these settings; 0 without residual diffusion."""
        return 0 if self.diffusion is None else sampling.diffusion_steps or self.diffusion.sampling_steps

    @property
    def hybrid(self) -> bool:
        """Return whether a continuous residual is sampled on top of the last scale's codes."""
        return self.diffusion is not None
