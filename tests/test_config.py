"""Configurations: strict reading, exact round trips, and errors that name the field."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hart.checkpoint.folders import CONFIG_FILE
from hart.config import (
    ClassConditioning,
    ConfigError,
    HartConfig,
    ResidualDiffusionConfig,
    SamplingConfig,
    TextConditioning,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)
from hart.files import FileError
from hart.presets import PRESETS
from helpers import tiny_class_config, tiny_text_config, transformer_variants

SCALES = (1, 2, 4)


def test_json_round_trip() -> None:
    for config in (*transformer_variants().values(), *(preset() for preset in PRESETS.values())):
        assert HartConfig.from_dict(json.loads(config.to_json())) == config


def test_a_top_k_of_0_keeps_all_codes() -> None:
    assert SamplingConfig(top_k=0) == SamplingConfig.from_dict({"top_k": 0}) == SamplingConfig(top_k=None)


def test_defaults_are_the_released_sizes() -> None:
    tokenizer, transformer = TokenizerConfig(SCALES), TransformerConfig(SCALES, text=TextConditioning())
    assert (tokenizer.base_channels, tokenizer.channel_multipliers) == (160, (1, 1, 2, 2, 4))
    assert (tokenizer.latent_channels, tokenizer.codebook_size, tokenizer.downsampling) == (32, 4096, 16)
    assert tokenizer.image_size == 64
    assert (transformer.width, transformer.depth, transformer.heads) == (1536, 24, 24)
    assert transformer.mlp_width == 4096


def test_swiglu_width_is_rounded_up_to_256() -> None:
    wide = TransformerConfig(SCALES, width=1024, heads=16, text=TextConditioning())
    assert wide.mlp_width == 2816  # 8/3 of 1024 is 2730.7
    assert wide.replace(mlp="gelu").mlp_width == 4096


def with_change(path: str, value: Any) -> dict[str, Any]:
    """The dictionary of the tiny text model with one value replaced."""
    values = tiny_text_config().to_dict()
    *tables, name = path.split(".")
    inner = values
    for table in tables:
        inner = inner[table]
    inner[name] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tokenizer.colour", 3, "HartConfig.tokenizer.colour: unknown key; known are"),
        ("tokenizer.codebook_size", "many", "HartConfig.tokenizer.codebook_size: expected a whole number, got 'many'"),
        ("tokenizer.scales", [1, "2", 3, 4], r"tokenizer.scales\[1\]: expected a whole number"),
        ("tokenizer.scales", [1, 3, 2], "tokenizer.scales: .* must grow"),
        ("tokenizer.base_channels", 40, "multiple of norm_groups"),
        ("transformer", None, "HartConfig.transformer: expected a table"),
        ("transformer.norm", "batch", "HartConfig.transformer.norm must be 'rms' or 'layer', not 'batch'"),
        ("transformer.text", None, "give either text or classes"),
        ("transformer.classes", {"num_classes": 3}, "give either text or classes"),
        ("transformer.position", "absolute", "transformer.position 'absolute' requires class conditioning"),
        ("transformer.modulation_pooling", "max", "requires modulation 'linear'"),
        ("transformer.modulation", "shared", "'shared' requires class conditioning"),
        ("transformer.heads", 3, "width must be a multiple of heads"),
        ("transformer.heads", 16, "head width that 4 divides, not 2"),
        ("transformer.scales", [1, 2, 3], "tokenizer and transformer differ in scales"),
        ("diffusion.sampling_steps", 1001, "sampling_steps"),
        ("tokenizer.quant_conv_kernel", 2, "quant_conv_kernel must be odd"),
        ("tokenizer.commitment_weight", math.nan, "commitment_weight must be a finite number, not nan"),
        ("sampling.maskgit_steps", 17, "maskgit_steps: 17 are more than the 16 tokens of the last scale"),
        ("sampling.diffusion_steps", 1001, "diffusion_steps: 1001 are more than the 1000 of training"),
        ("sampling.unguided_scales", 5, "unguided_scales: 5 are more than the 4 scales of the image"),
        ("format_version", 99, "format_version must be 1, not 99"),
        ("transformer.scales", [1, *range(2, 10**5)], "scales: .* at most 64 scales, not 99999"),
        ("tokenizer.scales", [1, 10**9], "scales: the last grid size .* at most 1024, not 1000000000"),
        ("tokenizer.scales", {"side": [1] * 10**6}, r"expected a list, got .{,80}$"),
        ("tokenizer.channel_multipliers", [1] * 64, "channel_multipliers must have 12 or fewer entries, not 64"),
        ("tokenizer.codebook_size", "x" * 10**6, r"expected a whole number, got .{,80}$"),
        ("x" * 10**6, 1, r"HartConfig.x{60}\.\.\.: unknown key; known are"),
    ],
)
def test_wrong_values_are_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HartConfig.from_dict(with_change(path, value))


def test_a_model_of_classes_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"ClassConditioning.num_classes must be at least 1, not 0"):
        ClassConditioning(0)


def test_missing_keys_are_named() -> None:
    values = tiny_class_config().to_dict()
    del values["transformer"]["scales"]
    with pytest.raises(ConfigError, match=r"HartConfig.transformer.scales: missing key"):
        HartConfig.from_dict(values)


def test_an_integer_stands_for_a_float() -> None:
    settings = SamplingConfig.from_dict({"guidance_scale": 3})
    assert settings.guidance_scale == 3.0
    assert isinstance(settings.guidance_scale, float)


@pytest.mark.parametrize("content", [b"{", b"[1, 2]"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / CONFIG_FILE
    path.write_bytes(content)
    with pytest.raises(FileError, match=CONFIG_FILE):
        HartConfig.load(path)


def test_a_wrong_value_in_a_file_names_both(tmp_path: Path) -> None:
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps(with_change("transformer.norm", "batch")), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.json: transformer.norm must"):
        HartConfig.load(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "qwen2", "tokens": 300}, "source"),
        ({"kind": "compact", "tokens": 16}, "vocabulary_size"),
        ({"kind": "qwen2", "tokens": 0, "source": "x/y"}, "tokens must be at least 1"),
        ({"kind": "qwen2", "tokens": 9, "source": "x/y", "depth": 2}, "depth: sizes are for compact"),
    ],
)
def test_text_encoders_need_what_their_kind_needs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextEncoderConfig.from_dict(values)


def test_hybrid_means_that_a_residual_is_sampled() -> None:
    assert tiny_text_config().hybrid
    assert not tiny_text_config().replace(diffusion=None).hybrid
    assert tiny_text_config().replace(diffusion=ResidualDiffusionConfig()).hybrid
    assert not tiny_class_config(classes=ClassConditioning(2)).hybrid
