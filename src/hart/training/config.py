"""Training settings, read strictly from `recipes/*.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from hart.config import (
    Config,
    ConfigError,
    ResidualDiffusionConfig,
    SamplingConfig,
    TokenizerConfig,
    TransformerConfig,
    require,
)


@dataclass(frozen=True)
class OptimizerConfig(Config):
    """AdamW or Muon with a linear warm-up, then constant or cosine decay to `final_fraction` of the rate."""

    learning_rate: float
    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices of the blocks (Jordan et al., 2024), AdamW for the rest."""
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    final_fraction: float = 0.05
    weight_decay: float = 0.05
    """Applied to matrices and convolutions only; not to biases, norms, embeddings and tables."""
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_clip: float = 1.0


@dataclass(frozen=True)
class TrainerConfig(Config):
    """How long, how often, and with which seed."""

    steps: int
    batch_size: int
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the forward pass in autocast: faster where the processor has AMX or is a GPU."""
    device: str = "cpu"
    ema_decay: float = 0.999
    """Decay of the weight average; warmed up as (1 + step) / (10 + step)."""
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        require(self.steps > 0 and self.batch_size > 0, "TrainerConfig: steps and batch_size must be positive")


@dataclass(frozen=True)
class Recipe(Config):
    """What every stage has: data and trainer."""

    data: str
    """Folder of a data set as `hart data` writes it."""
    trainer: TrainerConfig
    optimizer: OptimizerConfig

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = ()) -> Self:
        """`read_table` and `from_dict` in one."""
        return cls.from_dict(read_table(path, overrides))


def read_table(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a TOML recipe; `overrides` are `key.subkey=value` with TOML values. Raises `ConfigError`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {error}") from None
    for override in overrides:
        _override(values, override)
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {table} is not a table")
    values[name] = value


@dataclass(frozen=True)
class TokenizerLossConfig(Config):
    """Weights of the tokenizer's loss, see `hart.losses.tokenizer_loss`; the commitment is inside the quantiser's."""

    reconstruction: float = 1.0
    chroma: float = 0.0
    perceptual: float = 1.0
    quantizer: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(Recipe):
    """Stage `tokenizer`: autoencoder and quantiser from scratch, or the decoder alone."""

    tokenizer: TokenizerConfig
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    discrete_probability: float = 0.5
    """Chance that a step decodes the codes and not the continuous latent (paper, section 3.1)."""
    revive_every: int = 100
    """Steps between revivals of codes that no cell chose since; 0 leaves dead codes alone."""
    decoder_only: bool = False
    """Freeze encoder, quant_conv and quantiser, as the released recipe does."""
    init_from: str = ""
    """Folder of a tokenizer to start from."""

    def __post_init__(self) -> None:
        require(
            self.revive_every == 0 or self.trainer.checkpoint_every % self.revive_every == 0,
            "TokenizerRecipe: trainer.checkpoint_every must be a multiple of revive_every, so that a resumed run "
            "counts the codes' use from the same step",
        )
        require(0 <= self.discrete_probability <= 1, "TokenizerRecipe.discrete_probability must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class TransformerRecipe(Recipe):
    """Stage `transformer`: cross entropy over the token maps plus residual diffusion, on frozen tokens and text."""

    tokenizer: str
    """Folder of the trained tokenizer."""
    text_encoder: str
    """Folder of the text encoder."""
    transformer: TransformerConfig
    diffusion: ResidualDiffusionConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Written into the model as its defaults; training does not read it."""
    diffusion_weight: float = 1.0
    condition_dropout: float = 0.1
    """Share of captions replaced by the null context, for classifier-free guidance."""
    drop_last_scale: bool = True
    """Compute only a random part of the last scale's tokens (paper, section 3.4)."""
