"""The table of published names: levels, prefixes, and what is read off configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hart.checkpoint.released_weights import (
    hart_transformer_config,
    tokenizer_state,
    transformer_state,
    var_configs,
)
from hart.checkpoint.storage import CheckpointError
from hart.config import ConfigError, TokenizerConfig

TOKENIZER = TokenizerConfig(
    (1, 2, 4), base_channels=32, channel_multipliers=(1, 1, 2), latent_channels=8, codebook_size=64
)
VALUES: dict[str, Any] = {
    "embed_dim": 48,
    "num_heads": 3,
    "depth": 2,
    "context_dim": 20,
    "context_token": 6,
    "patch_nums": [1, 2, 4],
}


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("encoder.down.0.block.1.conv2.weight", "encoder.levels.0.1.conv2.weight"),
        ("encoder.down.0.downsample.conv.bias", "encoder.levels.0.2.conv.bias"),
        # at the lowest level an attention follows each block
        ("encoder.down.2.block.1.norm1.weight", "encoder.levels.2.2.norm1.weight"),
        ("encoder.down.2.attn.0.proj_out.weight", "encoder.levels.2.1.proj.weight"),
        ("encoder.down.2.block.0.nin_shortcut.weight", "encoder.levels.2.0.skip.weight"),
        # the decoder counts its levels from the highest resolution
        ("decoder.up.2.block.2.conv1.weight", "decoder.levels.0.4.conv1.weight"),
        ("decoder.up.2.upsample.conv.weight", "decoder.levels.0.6.conv.weight"),
        ("decoder.up.0.block.2.conv1.bias", "decoder.levels.2.2.conv1.bias"),
        ("decoder.mid.attn_1.qkv.weight", "decoder.middle.1.qkv.weight"),
        ("quantize.quant_resi.qresi_ls.3.bias", "quantizer.phis.3.conv.bias"),
        ("quantize.quant_resi.qresi.weight", "quantizer.phis.0.conv.weight"),
        ("vae.quantize.embedding.weight", "quantizer.codebook.weight"),
    ],
)
def test_tokenizer_names(published: str, ours: str) -> None:
    assert list(tokenizer_state({published: torch.zeros(1)}, TOKENIZER, "file")) == [ours]


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("blocks.11.attn.qkv_proj.weight", "transformer.blocks.11.attention.qkv.weight"),
        ("blocks.0.attn.mat_qkv.weight", "transformer.blocks.0.attention.qkv.weight"),
        ("blocks.0.attn.proj.bias", "transformer.blocks.0.attention.proj.bias"),
        ("blocks.0.ffn.gate_proj.weight", "transformer.blocks.0.mlp.gate.weight"),
        ("blocks.0.ffn.fc2.bias", "transformer.blocks.0.mlp.linear2.bias"),
        ("blocks.3.scale_shift_table", "transformer.blocks.3.modulation.table"),
        ("lvl_embed.mlp.2.weight", "transformer.level_embedding.linear2.weight"),
        ("diffloss.net.final_layer.linear.bias", "residual.denoiser.linear_out.bias"),
    ],
)
def test_transformer_names(published: str, ours: str) -> None:
    assert list(transformer_state({published: torch.zeros(1)}, "file")) == [ours]


@pytest.mark.parametrize("name", ["lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias"])
def test_tensors_without_a_role_are_left_out(name: str) -> None:
    assert not transformer_state({name: torch.zeros(1)}, "file")
    assert not tokenizer_state({"quantize.ema_vocab_hit_SV": torch.zeros(1)}, TOKENIZER, "file")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"folder/x\.bin: 1 tensor.*blocks\.0\.lora"):
        transformer_state({"blocks.0.lora": torch.zeros(1)}, "folder/x.bin")
    with pytest.raises(CheckpointError, match=r"encoder\.side"):
        tokenizer_state({"encoder.side": torch.zeros(1)}, TOKENIZER, "folder/x.bin")


@pytest.mark.parametrize(
    ("values", "tensors", "kind", "pooling"),
    [
        ({"disable_aln": True}, [], "none", "mean"),
        ({"disable_aln": False}, [], "linear", "max"),
        ({"disable_aln": False, "sep_aln_pooling_mode": "mean"}, [], "linear", "mean"),
        ({"shared_aln": True, "disable_aln": True, "sep_aln_pooling_mode": "max"}, [], "table", "mean"),
        ({}, ["blocks.0.scale_shift_table"], "table", "mean"),
        ({}, ["blocks.0.ada_lin.1.weight"], "linear", "max"),
        ({}, [], "none", "mean"),
    ],
)
def test_the_modulation_follows_configuration_and_tensors(
    values: dict[str, Any], tensors: list[str], kind: str, pooling: str
) -> None:
    state = dict.fromkeys(tensors, torch.zeros(1))
    config, diffusion = hart_transformer_config(VALUES | values, state, TOKENIZER, "file")
    assert (config.modulation, config.modulation_pooling) == (kind, pooling)
    assert diffusion is None


def test_diffusion_sizes_are_read() -> None:
    values = VALUES | {"diff_width": 40, "diff_depth": 3, "num_sampling_steps": "16", "diffusion_batch_mul": 2}
    diffusion = hart_transformer_config(values, {}, TOKENIZER, "file")[1]
    assert diffusion is not None
    assert (diffusion.width, diffusion.depth, diffusion.sampling_steps, diffusion.batch_multiplier) == (40, 3, 16, 2)


def test_an_absent_field_is_named() -> None:
    values = {name: value for name, value in VALUES.items() if name != "context_dim"}
    with pytest.raises(ConfigError, match=r"llm/config\.json: .*lacks context_dim"):
        hart_transformer_config(values, {}, TOKENIZER, "llm/config.json")


def test_var_needs_its_tensors() -> None:
    with pytest.raises(CheckpointError, match=r"var: pos_1LC is missing"):
        var_configs({}, {}, None, "var")
