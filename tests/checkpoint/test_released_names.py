"""The table of published names, and what becomes of tensors that it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.loading import load_config
from hart.checkpoint.released_names import ROLELESS, fill_published, model_names, tokenizer_names
from hart.checkpoint.storage import read_pickle, read_safetensors
from hart.config import TokenizerConfig
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

GOLDEN = Path(__file__).parent.parent / "golden"
TOKENIZER = TokenizerConfig(
    (1, 2, 4), base_channels=32, channel_multipliers=(1, 1, 2), latent_channels=8, codebook_size=64
)


def filled(published: dict[str, Tensor], names: dict[str, str]) -> nn.Module:
    module = nn.Linear(1, 1, device="meta")
    fill_published(module, published, "folder/x.bin", names, torch.float32)
    return module


def test_every_weight_of_a_tokenizer_of_three_levels_has_a_published_name() -> None:
    names = tokenizer_names(TOKENIZER)
    with torch.device("meta"):
        ours = HybridTokenizer(TOKENIZER).state_dict()
    assert set(ours) <= set(names.values())
    # the decoder counts its levels from the highest resolution; at the lowest an attention follows each block
    assert names["encoder.down.0.downsample.conv.bias"] == "encoder.levels.0.2.conv.bias"
    assert names["encoder.down.2.block.1.norm1.weight"] == "encoder.levels.2.2.norm1.weight"
    assert names["decoder.up.2.upsample.conv.weight"] == "decoder.levels.0.6.conv.weight"


def test_a_single_phi_has_a_name_of_its_own() -> None:
    names = tokenizer_names(TOKENIZER.replace(shared_phi=1))
    assert names["quantize.quant_resi.qresi.weight"] == "quantizer.phis.0.conv.weight"


def test_a_prefix_of_the_tokenizer_is_part_of_all_names() -> None:
    names = tokenizer_names(TOKENIZER, ["vae.quant_conv.bias"])
    assert names["vae.quant_conv.weight"] == "quant_conv.weight" and "quant_conv.weight" not in names


@pytest.mark.parametrize("file", ["t2i-qknorm-adaln/llm/model.safetensors", "t2i/llm/ema_model.bin", "var-c2i/var.pth",
                                  "var-c2i/vae.pth", "t2i/tokenizer/model.safetensors"])  # fmt: skip
def test_every_name_of_a_checkpoint_is_known(file: str) -> None:
    path = GOLDEN / file
    published = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    config = load_config(GOLDEN / file.partition("/")[0])
    of_model = "llm" in file or "var.pth" in file
    names = model_names(config) if of_model else tokenizer_names(config.tokenizer, published)
    assert published and {name for name in published if not ROLELESS.match(name)} <= set(names)


def test_dimensions_of_1_for_broadcasting_are_left_out() -> None:
    module = filled({"a.w": torch.full((1, 1, 1, 1), 2.0), "a.b": torch.ones(1, 1)}, {"a.w": "weight", "a.b": "bias"})
    assert (module.weight.tolist(), module.bias.tolist()) == ([[2.0]], [1.0])


def test_two_names_of_one_tensor_are_refused() -> None:
    both = {name: torch.zeros(1, 1) for name in ("one", "two")}
    with pytest.raises(CheckpointError, match=r"folder/x\.bin: one and two are two names of one tensor"):
        filled(both, dict.fromkeys(both, "weight"))


def test_tensors_without_a_role_are_left_out() -> None:
    roleless = "lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias", "quantize.ema_vocab_hit_SV"
    filled({name: torch.zeros(1) for name in (*roleless, "weight", "bias")} | {"weight": torch.zeros(1, 1)}, {})


def test_unknown_and_missing_names_are_those_of_the_file() -> None:
    with pytest.raises(CheckpointError, match=r"x\.bin: .*missing one or two; unexpected blocks\.0\.lora$"):
        filled({"b": torch.zeros(1), "blocks.0.lora": torch.zeros(1)}, {"one": "weight", "two": "weight", "b": "bias"})
