"""Sizes and choices of every part, as frozen dataclasses saved as JSON beside the weights.

A field exists because a published checkpoint or a recipe of this project uses it. Reading is strict:
an unknown key, a missing one or a wrong value is a `ConfigError` that names it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from hart.errors import HartError
from hart.scales import ScaleSchedule

FORMAT_VERSION = 1

LoraTarget = Literal["attention", "mlp", "word_embed"]
"""Linear layers of the transformer that get adapters, see `hart.lora.LAYERS`."""


class ConfigError(HartError):
    """A configuration that cannot be read or does not fit together; says which field and why."""


@dataclass(frozen=True)
class Config:
    """Strict dictionary round trip shared by every configuration below."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises `ConfigError` for unknown or missing keys and for values of another type."""
        require(isinstance(values, dict), f"{cls.__name__}: expected a table, got {values!r}")
        hints = typing.get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise ConfigError(f"{cls.__name__}: unknown key(s) {', '.join(unknown)}; known are {', '.join(fields)}")
        missing = sorted(
            name
            for name, f in fields.items()
            if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        )
        if missing:
            raise ConfigError(f"{cls.__name__}: missing key(s) {', '.join(missing)}")
        return cls(**{name: _convert(f"{cls.__name__}.{name}", hints[name], value) for name, value in values.items()})

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file. Raises `ConfigError` naming it when it is absent, no JSON, or does not fit."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
            raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from None


def _convert(where: str, hint: Any, value: Any) -> Any:
    """`value` from JSON or TOML as the annotated type, or a `ConfigError` naming the field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(where, next(a for a in arguments if a is not type(None)), value)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(f"{where}[{i}]", arguments[0], item) for i, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Config):
        require(isinstance(value, dict), f"{where}: expected a table, got {value!r}")
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition`."""
    if not condition:
        raise ConfigError(message)


def require_positive(config: Config, *names: str) -> None:
    """Raise `ConfigError` for the first of the fields `names` that is below 1."""
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{type(config).__name__}.{name} must be at least 1, not {value}")


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
        try:
            ScaleSchedule(self.scales)
        except ValueError as error:
            raise ConfigError(f"TokenizerConfig.scales: {error}") from None
        require_positive(
            self, "base_channels", "residual_blocks", "norm_groups", "latent_channels", "codebook_size", "shared_phi"
        )
        require(
            self.quant_conv_kernel >= 1 and self.quant_conv_kernel % 2 == 1,
            f"TokenizerConfig.quant_conv_kernel must be odd and at least 1, not {self.quant_conv_kernel}",
        )
        require(0 <= self.phi_weight <= 1, "TokenizerConfig.phi_weight must be in [0, 1]")
        require(0 <= self.commitment_weight < math.inf, "TokenizerConfig.commitment_weight must not be negative")
        require(
            bool(self.channel_multipliers) and min(self.channel_multipliers) >= 1,
            "TokenizerConfig.channel_multipliers must name at least one level, each at least 1",
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
        require_positive(self, "width", "tokens")


@dataclass(frozen=True)
class ClassConditioning(Config):
    """One learned embedding a class, and one for 'no class'."""

    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_positive(self, "num_classes")


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
        try:
            ScaleSchedule(self.scales)
        except ValueError as error:
            raise ConfigError(f"TransformerConfig.scales: {error}") from None
        require_positive(self, "latent_channels", "codebook_size", "width", "depth", "heads")
        require(
            0 < self.mlp_ratio < math.inf and self.mlp_width >= 1,
            f"TransformerConfig.mlp_ratio must give the MLP a width of at least 1, not {self.mlp_ratio}",
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
        require_positive(self, "width", "depth", "training_steps", "sampling_steps", "batch_multiplier")
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
        require(self.tokens >= 1, "TextEncoderConfig.tokens must be at least 1")
        sizes = ("vocabulary_size", "embedding_width", "width", "depth", "heads", "output_width")
        if self.kind == "qwen2":
            require(bool(self.source), "TextEncoderConfig.source: a qwen2 encoder needs a hub id or a folder")
            for name in sizes:
                require(getattr(self, name) == 0, f"TextEncoderConfig.{name}: sizes are for compact encoders")
            return
        require(not self.source and not self.instruction, "TextEncoderConfig: source and instruction are for qwen2")
        if self.kind == "random":
            require(self.output_width >= 1, "TextEncoderConfig.output_width must be at least 1")
            return
        for name in sizes:
            require(getattr(self, name) >= 1, f"TextEncoderConfig.{name}: a compact encoder needs at least 1")
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
        require(
            0 <= self.guidance_scale < math.inf,
            f"SamplingConfig.guidance_scale must be finite and not negative, not {self.guidance_scale}",
        )
        require(self.top_k is None or self.top_k >= 1, "SamplingConfig.top_k must be at least 1, or none")
        require(self.top_p is None or 0 < self.top_p <= 1, "SamplingConfig.top_p must be in (0, 1], or none")
        require(self.rounds >= 1, "SamplingConfig.rounds must be at least 1")
        require(
            self.diffusion_steps is None or self.diffusion_steps >= 1,
            "SamplingConfig.diffusion_steps must be at least 1, or none",
        )


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
        require(
            self.format_version == FORMAT_VERSION,
            f"config.json has format version {self.format_version}; this version of hart reads {FORMAT_VERSION}",
        )
        for name in ("scales", "latent_channels", "codebook_size"):
            ours, theirs = getattr(self.tokenizer, name), getattr(self.transformer, name)
            require(ours == theirs, f"HartConfig: tokenizer and transformer differ in {name}: {ours} and {theirs}")

    @property
    def hybrid(self) -> bool:
        """Whether a continuous rest is drawn on top of the last scale's codes."""
        return self.diffusion is not None
