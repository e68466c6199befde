"""The table of published names, read both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.loading import load_model
from hart.checkpoint.released_names import (
    ROLELESS,
    TRANSFORMER_NAMES,
    renamed,
    tokenizer_names,
)
from hart.checkpoint.storage import read_pickle, read_safetensors
from hart.config import TokenizerConfig

GOLDEN = Path(__file__).parent.parent / "golden"
TOKENIZER = TokenizerConfig(
    (1, 2, 4), base_channels=32, channel_multipliers=(1, 1, 2), latent_channels=8, codebook_size=64
)


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
        ("quantize.embedding.weight", "quantizer.codebook.weight"),
    ],
)
def test_tokenizer_names(published: str, ours: str) -> None:
    table = tokenizer_names(TOKENIZER)
    assert (table.ours(published), table.published(ours)) == (ours, published)


def test_a_single_phi_has_a_name_of_its_own() -> None:
    table = tokenizer_names(TOKENIZER.replace(shared_phi=1))
    assert table.ours("quantize.quant_resi.qresi.weight") == "quantizer.phis.0.conv.weight"


def test_a_prefix_of_the_tokenizer_is_dropped_and_remembered() -> None:
    published = {"vae.quant_conv.bias": torch.zeros(1)}
    weights = renamed(published, tokenizer_names(TOKENIZER, published), "file")
    assert list(weights.tensors) == ["quant_conv.bias"]
    assert weights.name_in_file("quant_conv.bias") == "vae.quant_conv.bias"
    assert weights.name_in_file("quant_conv.weight") == "vae.quant_conv.weight"


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
    assert TRANSFORMER_NAMES.ours(published) == ours
    assert published in TRANSFORMER_NAMES.published(ours).split(" or ")


@pytest.mark.parametrize("file", ["t2i-qknorm-adaln/llm/model.safetensors", "t2i/llm/ema_model.bin", "var-c2i/var.pth",
                                  "var-c2i/vae.pth", "t2i/tokenizer/model.safetensors"])  # fmt: skip
def test_every_name_of_a_checkpoint_is_read_both_ways(file: str) -> None:
    path = GOLDEN / file
    published = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if "llm" in file or "var.pth" in file:
        table = TRANSFORMER_NAMES
    else:
        case, _ = file.split("/", maxsplit=1)
        table = tokenizer_names(load_model(GOLDEN / case).config.tokenizer, published)
    assert published
    for name in published:
        if not ROLELESS.match(name):
            ours = table.ours(name)
            assert ours is not None
            assert name in table.published(ours).split(" or ")


def test_two_names_of_one_tensor_are_refused() -> None:
    both = {f"blocks.0.attn.{name}.weight": torch.zeros(1) for name in ("qkv_proj", "mat_qkv")}
    with pytest.raises(CheckpointError, match=r"file: blocks\.0\.attn\.qkv_proj\.weight and .*mat_qkv\.weight"):
        renamed(both, TRANSFORMER_NAMES, "file")


@pytest.mark.parametrize("name", ["lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias"])
def test_tensors_without_a_role_are_left_out(name: str) -> None:
    assert not renamed({name: torch.zeros(1)}, TRANSFORMER_NAMES, "file").tensors
    assert not renamed({"quantize.ema_vocab_hit_SV": torch.zeros(1)}, tokenizer_names(TOKENIZER), "file").tensors


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"folder/x\.bin: 1 tensor.*blocks\.0\.lora"):
        renamed({"blocks.0.lora": torch.zeros(1)}, TRANSFORMER_NAMES, "folder/x.bin")
    with pytest.raises(CheckpointError, match=r"encoder\.odd"):
        renamed({"encoder.odd": torch.zeros(1)}, tokenizer_names(TOKENIZER), "folder/x.bin")
