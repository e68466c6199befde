"""What is read off published configurations, and off tensors where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.released_weights import hart_transformer_config, var_configs
from hart.checkpoint.storage import read_pickle
from hart.config import ConfigError, TokenizerConfig

GOLDEN = Path(__file__).parent.parent / "golden"
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


@pytest.mark.parametrize("name", ["pos_1LC", "word_embed.weight", "class_emb.weight", "blocks.0.ffn.fc1.weight"])
def test_var_needs_its_tensors(name: str) -> None:
    vae, var = (read_pickle(GOLDEN / "var-c2i" / f"{file}.pth") for file in ("vae", "var"))
    scales = (1, 2, 3, 4, 6, 8)
    for change, message in ((None, "is missing"), (torch.zeros(()), "dimensions"), (torch.zeros(0), "dimensions")):
        changed = {key: value for key, value in var.items() if key != name}
        if change is not None:
            changed[name] = change
        with pytest.raises(CheckpointError, match=rf"var\.pth: {name} .*{message}|var\.pth: {name} {message}"):
            var_configs(vae, changed, scales, ("vae.pth", "var.pth"))
