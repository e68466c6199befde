"""Sizes and choices of every part, as frozen dataclasses saved as JSON beside the weights.

A field exists because a published checkpoint or a recipe of this project uses it. Reading is strict:
an unknown key, a missing one or a wrong value is a `ConfigError` that names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hart.scales import ScaleSchedule
from hart.strict import Config, ConfigError, require, require_positive, require_sizes, shown

__all__ = [
    "ClassConditioning",
    "Config",
    "ConfigError",
    "HartConfig",
    "LoraTarget",
    "ResidualDiffusionConfig",
    "SamplingConfig",
    "TextConditioning",
    "TextEncoderConfig",
    "TokenizerConfig",
    "TransformerConfig",
    "require",
    "require_positive",
]

FORMAT_VERSION = 1
MAX_SEED = 2**63 - 1
"""Seeds from 0 to here serve every generator: NumPy's takes no negative ones, torch's none of more bits."""

# Far above every published model: what asks for more is a damaged file, found before memory is taken for it.
MAX_WIDTH, MAX_DEPTH, MAX_HEADS = 2**16, 512, 2**12
MAX_CODES, MAX_CHANNELS, MAX_CLASSES, MAX_PIECES = 2**20, 2**12, 2**24, 2**22
MAX_TOKENS, MAX_LEVELS, MAX_DIFFUSION_STEPS, MAX_RATIO, MAX_GUIDANCE = 2**20, 12, 10**5, 64, 1000

LoraTarget = Literal["attention", "mlp", "word_embed"]
"""Linear layers of the transformer that get adapters, see `hart.checkpoint.lora.LAYERS`."""


def _require_schedule(config: TokenizerConfig | TransformerConfig) -> None:
    try:
        ScaleSchedule(config.scales)
    except ValueError as error:
        raise ConfigError(f"{type(config).__name__}.scales: {error}") from None


@dataclass(frozen=True)
class TokenizerConfig(Config):
    """The autoencoder and its multi-scale quantiser (paper, section 3.1; sizes of the release as defaults)."""

    scales: tuple[int, ...]
    base_channels: int = 160
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = 2
    """Residual blocks of a level in the encoder; the decoder has one more."""
    norm_groups: int = 32
    """Groups of every GroupNorm. As many groups as channels would normalise each channel by itself and lose colours."""
    latent_channels: int = 32
    codebook_size: int = 4096
    shared_phi: int = 4
    """Convolutions phi shared by all scales."""
    phi_weight: float = 0.5
    """phi(h) = (1 - phi_weight) h + phi_weight conv(h)."""
    quant_conv_kernel: int = 3
    commitment_weight: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_schedule(self)
        require_sizes(
            self,
            base_channels=MAX_CHANNELS,
            residual_blocks=MAX_DEPTH,
            norm_groups=MAX_CHANNELS,
            latent_channels=MAX_CHANNELS,
            codebook_size=MAX_CODES,
            shared_phi=MAX_DEPTH,
            quant_conv_kernel=MAX_RATIO,
        )
        require(
            self.quant_conv_kernel % 2 == 1,
            f"TokenizerConfig.quant_conv_kernel must be odd, not {self.quant_conv_kernel}",
        )
        require(0 <= self.phi_weight <= 1, "TokenizerConfig.phi_weight must be in [0, 1]")
        require(0 <= self.commitment_weight < math.inf, "TokenizerConfig.commitment_weight must not be negative")
        require(
            1 <= len(self.channel_multipliers) <= MAX_LEVELS
            and all(1 <= multiplier <= MAX_RATIO for multiplier in self.channel_multipliers),
            f"TokenizerConfig.channel_multipliers must name 1 to {MAX_LEVELS} levels, each 1 to {MAX_RATIO}",
        )
        require(
            self.base_channels % self.norm_groups == 0,
            f"TokenizerConfig.base_channels must be a multiple of norm_groups ({self.norm_groups})",
        )

    @property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.scales)

    @property
    def downsampling(self) -> int:
        """Pixels of a latent cell's side."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def image_size(self) -> int:
        """Side of the pictures of this schedule in pixels."""
        return self.downsampling * self.scales[-1]


@dataclass(frozen=True)
class TextConditioning(Config):
    """Text features (S tokens of width E) put before the image tokens."""

    width: int = 1536
    tokens: int = 300
    norm: bool = True
    """RMSNorm on the text features before they are projected."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, width=MAX_WIDTH, tokens=MAX_TOKENS)


@dataclass(frozen=True)
class ClassConditioning(Config):
    """One learned embedding a class, and one for 'no class'."""

    num_classes: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, num_classes=MAX_CLASSES)


@dataclass(frozen=True)
class TransformerConfig(Config):
    """The scalable-resolution transformer (paper, section 3.2). Exactly one of `text`, `classes` is given."""

    scales: tuple[int, ...]
    latent_channels: int = 32
    codebook_size: int = 4096
    width: int = 1536
    depth: int = 24
    heads: int = 24
    text: TextConditioning | None = None
    classes: ClassConditioning | None = None
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm with a weight, or LayerNorm without (VAR)."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    mlp_ratio: float = 4.0
    """MLP width over model width; SwiGLU takes 2/3 of it, rounded up to 256."""
    qk_norm: bool = False
    level_embedding: Literal["sinusoidal", "table"] = "sinusoidal"
    position: Literal["rotary", "absolute"] = "rotary"
    modulation: Literal["none", "linear", "table", "shared"] = "none"
    """AdaLN of the blocks: none; a linear layer a block; one table a block added to the pooled context; or one
    table a block added to what a linear layer shared by all blocks gives (VAR at 512 px)."""
    modulation_pooling: Literal["mean", "max"] = "mean"
    """How text tokens are pooled for the blocks' modulation; `max` goes with the linear kind only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_schedule(self)
        require_sizes(
            self,
            latent_channels=MAX_CHANNELS,
            codebook_size=MAX_CODES,
            width=MAX_WIDTH,
            depth=MAX_DEPTH,
            heads=MAX_HEADS,
        )
        require(
            0 < self.mlp_ratio <= MAX_RATIO and self.mlp_width >= 1,
            f"TransformerConfig.mlp_ratio must be at most {MAX_RATIO} and give the MLP a width of at least 1, "
            f"not {self.mlp_ratio}",
        )
        require((self.text is None) != (self.classes is None), "TransformerConfig: give either text or classes")
        require(
            self.modulation == "linear" or self.modulation_pooling == "mean",
            "TransformerConfig: modulation_pooling 'max' goes with modulation 'linear' only",
        )
        require(
            self.modulation != "shared" or self.classes is not None,
            "TransformerConfig: modulation 'shared' goes with class conditioning only",
        )
        require(
            self.position == "rotary" or self.classes is not None,
            "TransformerConfig: absolute positions go with class conditioning only",
        )
        require(self.width % self.heads == 0, "TransformerConfig.width must be a multiple of heads")
        head_width = self.width // self.heads
        require(
            self.position == "absolute" or head_width % 4 == 0,
            f"TransformerConfig: rotary positions need a head width that 4 divides, not {head_width}",
        )

    @property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.scales)

    @property
    def mlp_width(self) -> int:
        if self.mlp == "gelu":
            return round(self.width * self.mlp_ratio)
        return 256 * -(-int(2 * self.mlp_ratio * self.width / 3) // 256)


@dataclass(frozen=True)
class ResidualDiffusionConfig(Config):
    """The MLP that draws the continuous rest of the last scale (paper, section 3.3)."""

    width: int = 1024
    depth: int = 6
    training_steps: int = 1000
    sampling_steps: int = 8
    tokens_scale: float = 0.6
    """Residual tokens are divided by this before the diffusion sees them."""
    batch_multiplier: int = 4
    """Timesteps drawn for each token in a training step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(
            self,
            width=MAX_WIDTH,
            depth=MAX_DEPTH,
            training_steps=MAX_DIFFUSION_STEPS,
            sampling_steps=MAX_DIFFUSION_STEPS,
            batch_multiplier=MAX_WIDTH,
        )
        require(
            self.sampling_steps <= self.training_steps,
            "ResidualDiffusionConfig.sampling_steps must not exceed training_steps",
        )
        require(0 < self.tokens_scale < math.inf, "ResidualDiffusionConfig.tokens_scale must be above 0 and finite")


@dataclass(frozen=True)
class TextEncoderConfig(Config):
    """Which text encoder a model reads prompts with.

    `compact` is the small one of this project, stored with the model (see `hart.text_encoder.compact`);
    `qwen2` is any Qwen2 causal language model that transformers loads from `source` (hub id or folder).
    `random` gives random features instead: it lets a model with random weights be stored and opened again.
    """

    kind: Literal["compact", "qwen2", "random"]
    tokens: int
    """Prompts are padded or cut to this many tokens."""
    source: str = ""
    """Hub id or folder of a `qwen2` encoder; a folder beside the model's weights by its name there."""
    instruction: bool = False
    """Put the enhancement instruction before the prompt, as the released weights expect."""
    vocabulary_size: int = 0
    """Word pieces of a `compact` encoder. This and the sizes below are 0 for the other kinds."""
    embedding_width: int = 0
    """Width of the word-piece table, which a linear layer brings to `width`."""
    width: int = 0
    depth: int = 0
    heads: int = 0
    output_width: int = 0
    """Width of the text features that a `compact` or `random` encoder hands on."""
    seed: int = 0
    """Of a `random` encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, tokens=MAX_TOKENS)
        sizes = {
            "vocabulary_size": MAX_PIECES,
            "embedding_width": MAX_WIDTH,
            "width": MAX_WIDTH,
            "depth": MAX_DEPTH,
            "heads": MAX_HEADS,
            "output_width": MAX_WIDTH,
        }
        if self.kind == "qwen2":
            require(bool(self.source), "TextEncoderConfig.source: a qwen2 encoder needs a hub id or a folder")
            for name in sizes:
                require(getattr(self, name) == 0, f"TextEncoderConfig.{name}: sizes are for compact encoders")
            return
        require(not self.source and not self.instruction, "TextEncoderConfig: source and instruction are for qwen2")
        if self.kind == "random":
            require_sizes(self, output_width=MAX_WIDTH)
            require(
                0 <= self.seed <= MAX_SEED, f"TextEncoderConfig.seed must be 0 to {MAX_SEED}, not {shown(self.seed)}"
            )
            return
        require_sizes(self, **sizes)
        require(self.width % self.heads == 0, "TextEncoderConfig.width must be a multiple of heads")


@dataclass(frozen=True)
class SamplingConfig(Config):
    """How pictures are drawn unless the caller says otherwise (section 5 of the paper's appendix)."""

    guidance_scale: float = 4.5
    top_k: int | None = 600
    """Codes kept; a hybrid model keeps half as many from the eighth scale on. None keeps all."""
    top_p: float | None = None
    smooth: bool = True
    """Mix codes with Gumbel noise instead of taking the sampled code's embedding."""
    rounds: int = 1
    """Rounds in which the last scale is drawn."""
    diffusion_steps: int | None = None
    """Steps of the residual diffusion; None takes those of `ResidualDiffusionConfig.sampling_steps`."""
    discrete_only: bool = False
    """Leave the residual tokens out (the paper's ablation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.guidance_scale <= MAX_GUIDANCE,
            f"SamplingConfig.guidance_scale must be finite and not negative, at most {MAX_GUIDANCE}, "
            f"not {self.guidance_scale}",
        )
        require(
            self.top_k is None or 1 <= self.top_k <= MAX_CODES,
            f"SamplingConfig.top_k must be at least 1 and at most {MAX_CODES}, or none",
        )
        require(self.top_p is None or 0 < self.top_p <= 1, "SamplingConfig.top_p must be in (0, 1], or none")
        require_sizes(self, rounds=MAX_TOKENS)
        if self.diffusion_steps is not None:
            require_sizes(self, diffusion_steps=MAX_DIFFUSION_STEPS)


@dataclass(frozen=True)
class HartConfig(Config):
    """A whole model: what `config.json` beside the weights holds."""

    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    diffusion: ResidualDiffusionConfig | None = None
    """None: discrete tokens only, as in VAR and in the paper's ablation."""
    text_encoder: TextEncoderConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.format_version == FORMAT_VERSION,
            f"config.json has format version {shown(self.format_version)}; this version of hart reads {FORMAT_VERSION}",
        )
        for name in ("scales", "latent_channels", "codebook_size"):
            ours, theirs = getattr(self.tokenizer, name), getattr(self.transformer, name)
            require(ours == theirs, f"HartConfig: tokenizer and transformer differ in {name}: {ours} and {theirs}")

    @property
    def hybrid(self) -> bool:
        """Whether a continuous rest is drawn on top of the last scale's codes."""
        return self.diffusion is not None
