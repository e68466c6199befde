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
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

GOLDEN = Path(__file__).parent.parent / "golden"
TOKENIZER = TokenizerConfig(
    (1, 2, 4), base_channels=32, channel_multipliers=(1, 1, 2), latent_channels=8, codebook_size=64
)


def test_every_weight_of_a_tokenizer_of_three_levels_has_a_published_name() -> None:
    table = tokenizer_names(TOKENIZER)
    with torch.device("meta"):
        names = HybridTokenizer(TOKENIZER).state_dict()
    assert [table.ours(table.published(name)) for name in names] == list(names)
    # the decoder counts its levels from the highest resolution; at the lowest an attention follows each block
    for published, ours in {
        "encoder.down.0.downsample.conv.bias": "encoder.levels.0.2.conv.bias",
        "encoder.down.2.block.1.norm1.weight": "encoder.levels.2.2.norm1.weight",
        "decoder.up.2.upsample.conv.weight": "decoder.levels.0.6.conv.weight",
    }.items():
        assert table.ours(published) == ours


def test_a_single_phi_has_a_name_of_its_own() -> None:
    table = tokenizer_names(TOKENIZER.replace(shared_phi=1))
    assert table.ours("quantize.quant_resi.qresi.weight") == "quantizer.phis.0.conv.weight"


def test_a_prefix_of_the_tokenizer_is_dropped_and_remembered() -> None:
    published = {"vae.quant_conv.bias": torch.zeros(1)}
    weights = renamed(published, tokenizer_names(TOKENIZER, published), "file")
    assert list(weights.tensors) == ["quant_conv.bias"]
    assert weights.name_in_file("quant_conv.bias") == "vae.quant_conv.bias"
    assert weights.name_in_file("quant_conv.weight") == "vae.quant_conv.weight"


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
