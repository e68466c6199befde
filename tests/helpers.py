"""Tiny models for the tests: 4 scales, 8 x 8 pixels, width 32."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.checkpoint.loading import build
from hart.checkpoint.lora import add_lora, save_lora
from hart.config import (
    ClassConditioning,
    HartConfig,
    ResidualDiffusionConfig,
    TextConditioning,
    TokenizerConfig,
    TransformerConfig,
)
from hart.data.datasets import CaptionedImages
from hart.model import Hart
from hart.presets import PRESETS
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.config import OptimizerConfig, TrainerConfig, TransformerRecipe
from hart.transformer.transformer import HartTransformer
from hart.types import ClassContext, Context, TextContext

if TYPE_CHECKING:
    import pytest

SCALES = (1, 2, 3, 4)
CHANNELS = 4
CODES = 24
TEXT_TOKENS, TEXT_WIDTH = 12, 12
CLASSES = 6
# What the reference run was given; everything else in a golden file is recomputed.
GOLDEN_INPUTS = {
    "tokenizer.image", "context.embeddings", "context.mask", "labels", "diffusion.timesteps", "diffusion.noise",
    "generate.start_noise",
}  # fmt: skip


def tiny_tokenizer_config() -> TokenizerConfig:
    return TokenizerConfig(
        SCALES,
        base_channels=32,
        channel_multipliers=(1, 1),
        residual_blocks=1,
        latent_channels=CHANNELS,
        codebook_size=CODES,
    )


def _tiny(diffusion: ResidualDiffusionConfig | None, transformer: dict[str, Any]) -> HartConfig:
    sizes = {"latent_channels": CHANNELS, "codebook_size": CODES, "width": 32, "depth": 2, "heads": 2}
    return HartConfig(tiny_tokenizer_config(), TransformerConfig(SCALES, **sizes | transformer), diffusion)


def tiny_text_config(**transformer: Any) -> HartConfig:
    """A text-to-image model of the released kind; `transformer` replaces fields of its transformer."""
    text = TextConditioning(width=TEXT_WIDTH, tokens=TEXT_TOKENS)
    return _tiny(ResidualDiffusionConfig(width=16, depth=2, sampling_steps=4), {"text": text} | transformer)


def tiny_class_config(**transformer: Any) -> HartConfig:
    """A class-conditional VAR model; `transformer` replaces fields of its transformer."""
    var = {
        "classes": ClassConditioning(CLASSES),
        "norm": "layer",
        "mlp": "gelu",
        "qk_norm": True,
        "level_embedding": "table",
        "position": "absolute",
        "modulation": "linear",
    }
    return _tiny(None, var | transformer)


VARIED = {
    "kind": ("text", "class"),
    "norm": ("rms", "layer"),
    "mlp": ("swiglu", "gelu"),
    "modulation": ("none", "linear", "table", "shared"),
    "qk_norm": (False, True),
    "level_embedding": ("sinusoidal", "table"),
    "position": ("rotary", "absolute"),
}


def transformer_variants() -> dict[str, HartConfig]:
    """The transformers of real models at a tiny size, and so many others that every two choices meet, by name."""
    variants = {name: _shrunk(PRESETS[name]()) for name in ("hart-0.7b-256", "hart-imagenet-d20-256", "var-d16-256")}
    for kind, *choices in _covering_rows():
        make = tiny_text_config if kind == "text" else tiny_class_config
        fields = dict(zip(list(VARIED)[1:], choices, strict=True))
        variants["-".join(map(str, (kind, *choices)))] = make(**fields)
    variants["text-max-pooling"] = tiny_text_config(modulation="linear", modulation_pooling="max")
    variants["text-masked"] = tiny_text_config(level_embedding="table", masked_last_scale=True)
    variants["text-without-context-norm"] = tiny_text_config(
        mlp_ratio=2.0, text=TextConditioning(width=TEXT_WIDTH, tokens=TEXT_TOKENS, norm=False)
    )
    return variants


def _covering_rows() -> list[tuple[Any, ...]]:
    """A few rows of `VARIED`'s values in which every allowed pair of two choices stands; always the same ones."""

    def pairs(row: tuple[Any, ...]) -> set[Any]:
        return set(combinations(enumerate(row), 2))

    allowed = [row for row in product(*VARIED.values()) if row[0] == "class" or {"shared", "absolute"}.isdisjoint(row)]
    left = set().union(*map(pairs, allowed))
    rows = []
    while left:
        rows.append(max(allowed, key=lambda row: len(pairs(row) & left)))
        left -= pairs(rows[-1])
    return rows


def _shrunk(config: HartConfig) -> HartConfig:
    """A model's choices at the sizes of these tests."""
    tiny = tiny_text_config() if config.transformer.text is not None else tiny_class_config()
    kept = ("norm", "mlp", "mlp_ratio", "modulation", "modulation_pooling", "qk_norm", "level_embedding", "position")
    return tiny.replace(transformer=tiny.transformer.replace(**{k: getattr(config.transformer, k) for k in kept}))


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> None:
    """Fill a module from a seed so that nothing is zero or one by chance: matrices keep variances, gains are near 1."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                gain = name == "log_scale" or (name == "weight" and not isinstance(layer, nn.Linear | nn.Conv2d))
                parameter.copy_(0.1 * noise + gain)


def tiny_model(config: HartConfig, seed: int = 0) -> tuple[HybridTokenizer, Hart]:
    """Tokenizer and model of a configuration with random weights, in evaluation mode."""
    modules = build(config)
    for number, module in enumerate(modules):
        randomize(module, seed + number)
    return modules


def store_adapter(hart: Hart, folder: Path, *, alpha: float, value: float) -> None:
    """Write an adapter of `hart` that does something, as after some training: all its second matrices are `value`."""
    add_lora(hart, rank=2, alpha=alpha, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in hart.named_parameters():
            if "lora_B" in name:
                parameter.fill_(value)
    save_lora(hart, folder, base_model="runs/base")


def random_context(config: HartConfig, batch: int, seed: int = 0) -> Context:
    """Text of different lengths, padded on the right, or class labels."""
    generator = torch.Generator().manual_seed(seed)
    classes = config.transformer.classes
    if classes is not None:
        labels = torch.randint(classes.num_classes, (batch,), generator=generator)
        return ClassContext(labels, classes.num_classes)
    lengths = torch.randint(2, TEXT_TOKENS, (batch, 1), generator=generator)
    embeddings = torch.randn(batch, TEXT_TOKENS, TEXT_WIDTH, generator=generator)
    return TextContext(embeddings, torch.arange(TEXT_TOKENS) < lengths)


def alone(context: Context, i: int) -> Context:
    """Image i of a batch by itself."""
    if isinstance(context, TextContext):
        return TextContext(context.embeddings[i : i + 1], context.mask[i : i + 1])
    return ClassContext(context.labels[i : i + 1], context.num_classes)


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_image(batch: int, size: int = 8, seed: int = 0) -> Tensor:
    """(B, 3, size, size) in [-1, 1]."""
    return torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def captioned_images(count: int = 4) -> CaptionedImages:
    """Blobs of colour, 8 x 8 pixels, as training reads them."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((count, 3, 2, 2), generator=generator)
    pixels = (F.interpolate(coarse, size=8, mode="bilinear") * 255).to(torch.uint8)
    return CaptionedImages(pixels, (("a blob",),) * count, torch.ones(count), ({},) * count)


def teacher_input(config: HartConfig, batch: int, seed: int = 0) -> Tensor:
    """(B, L - 1, D) for `HartTransformer.forward`."""
    return random_tensor(batch, config.transformer.schedule.total_tokens - 1, CHANNELS, seed=seed)


def transformer_recipe(config: HartConfig, **changes: Any) -> TransformerRecipe:
    """Of a model of these sizes, for two steps of two images that a test gives."""
    values: dict[str, Any] = {
        "data": "",
        "tokenizer": "",
        "text_encoder": "" if config.transformer.classes else "somewhere",
        "trainer": TrainerConfig(steps=2, batch_size=2, checkpoint_every=1, ema_decay=0.1),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        "transformer": config.transformer,
        "diffusion": config.diffusion,
    }
    return TransformerRecipe(**values | changes)


def same_weights(ours: Mapping[str, Tensor] | nn.Module, theirs: Mapping[str, Tensor] | nn.Module) -> bool:
    """Whether two have the same names, and under each the same to the last bit."""
    first, second = (one.state_dict() if isinstance(one, nn.Module) else one for one in (ours, theirs))
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def without_gradient(module: nn.Module) -> list[str]:
    """Names of trainable parameters that no gradient has reached."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]


def unpadded(table: str) -> str:
    """A Markdown table whose columns are as narrow as each cell."""
    return re.sub(" +", " ", table)


def rows_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every later call of the transformer on a scale, the first one's apart."""
    computed: list[int] = []
    step = HartTransformer.next_scale

    def counted(self: HartTransformer, k: int, scale_input: Tensor, *arguments: Any) -> Tensor:
        computed.append(len(scale_input))
        return step(self, k, scale_input, *arguments)

    monkeypatch.setattr(HartTransformer, "next_scale", counted)
    return computed
