"""The sizes of published checkpoints, from their configuration or, if they have none, their tensors.

HART:  llm/config.json, llm/{*.safetensors, pytorch_model*.bin, ema_model.bin}, tokenizer/{config.json, ...}
VAR:   vae*.pth, var*.pth
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hart.checkpoint.folders import CheckpointError
from hart.config import ConfigError, ResidualDiffusionConfig, TokenizerConfig, TransformerConfig
from hart.presets import SCALES_256, SCALES_512

# Weights of a part of the HART layout, in order of preference: averaged ones first.
WEIGHT_FILES = ("ema_model.bin", "*.safetensors", "pytorch_model*.bin")


def _field(values: Mapping[str, Any], name: str, source: str) -> Any:
    if name not in values:
        raise ConfigError(f"{source}: the published configuration lacks {name}")
    return values[name]


def hart_tokenizer_config(values: Mapping[str, Any], source: str) -> TokenizerConfig:
    """Convert `tokenizer/config.json` of the HART layout."""
    if values.get("disable_quant_resi", False) or values.get("using_znorm", False):
        raise ConfigError(f"{source}: disable_quant_resi and using_znorm are used by no published tokenizer")
    ours = {
        "scales": _field(values, "v_patch_nums", source),
        "base_channels": _field(values, "ch", source),
        "channel_multipliers": values.get("ch_mult", TokenizerConfig.channel_multipliers),
        "latent_channels": _field(values, "z_channels", source),
        "codebook_size": _field(values, "vocab_size", source),
        "shared_phi": values.get("share_quant_resi", 4),
        "phi_weight": values.get("quant_resi", 0.5),
        "quant_conv_kernel": values.get("quant_conv_ks", 3),
        "commitment_weight": values.get("beta", 0.25),
    }
    return TokenizerConfig.from_dict(ours, source)


def hart_transformer_config(
    values: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: TokenizerConfig, source: str
) -> tuple[TransformerConfig, ResidualDiffusionConfig | None]:
    """Convert `llm/config.json` of the HART layout; missing fields follow from the tensors."""
    if values.get("use_cross_attn", False):
        raise ConfigError(f"{source}: use_cross_attn is used by no published checkpoint and is not supported")
    modulation = _modulation_kind(values, state)
    max_pooling = values.get("sep_aln_pooling_mode", "max") == "max"
    ours = {
        "scales": _field(values, "patch_nums", source),
        "latent_channels": tokenizer.latent_channels,
        "codebook_size": tokenizer.codebook_size,
        "width": _field(values, "embed_dim", source),
        "depth": _field(values, "depth", source),
        "heads": _field(values, "num_heads", source),
        "text": {
            "width": _field(values, "context_dim", source),
            "tokens": _field(values, "context_token", source),
            "norm": values.get("use_context_norm", "context_norm.weight" in state),
        },
        "norm": "rms" if "head_nm.ln_wo_grad.weight" in state else "layer",
        "mlp": "swiglu" if values.get("mlp_type", "llama") == "llama" else "gelu",
        "mlp_ratio": values.get("mlp_ratio", 4.0),
        "qk_norm": values.get("attn_l2_norm", "blocks.0.attn.scale_mul_1H11" in state),
        "level_embedding": "sinusoidal"
        if values.get("use_timestep_embed", "lvl_embed.weight" not in state)
        else "table",
        "position": "absolute" if "pos_1LC" in state else "rotary",
        "modulation": modulation,
        # the published pooling option applies to the linear kind only; the table uses the mean
        "modulation_pooling": "max" if modulation == "linear" and max_pooling else "mean",
    }
    transformer = TransformerConfig.from_dict(ours, source)
    if "diff_width" not in values:
        return transformer, None
    steps = values.get("num_sampling_steps", 8)
    diffusion = {
        "width": values["diff_width"],
        "depth": _field(values, "diff_depth", source),
        # published as a string
        "sampling_steps": int(steps) if isinstance(steps, str) and re.fullmatch("[0-9]{1,6}", steps) else steps,
        "batch_multiplier": values.get("diffusion_batch_mul", 4),
    }
    return transformer, ResidualDiffusionConfig.from_dict(diffusion, source)


def _modulation_kind(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the kind of modulation: the table takes precedence over the other two, even if `disable_aln` is set."""
    if values.get("shared_aln", "blocks.0.scale_shift_table" in state):
        return "table"
    return "none" if values.get("disable_aln", "blocks.0.ada_lin.1.weight" not in state) else "linear"


def var_configs(
    tokenizer: Mapping[str, Tensor],
    transformer: Mapping[str, Tensor],
    scales: Sequence[int] | None,
    sources: tuple[str, str],
) -> tuple[TokenizerConfig, TransformerConfig]:
    """Return the sizes of a VAR checkpoint, from the shapes of its tensors, since it stores none.

    scales: the schedule; None means the published one whose token count fits the position table.
    sources: the files of the two, for errors.
    """
    vae, var = sources
    positions = _tensor(transformer, "pos_1LC", 3, var).shape[1]
    if scales is None:
        # at 512 px that of VAR-d36-s, whose blocks share their AdaLN
        fitting = [s for s in (SCALES_256, SCALES_512) if sum(n * n for n in s) == positions]
        if not fitting:
            raise ConfigError(f"{var}: no published VAR schedule has {positions} tokens: give patch_nums in case.json")
        scales = fitting[0]
    levels = _count(tokenizer, "encoder.down.{}.block.0.conv1.weight")
    base = _tensor(tokenizer, "encoder.conv_in.weight", 4, vae).shape[0]
    tops = [_tensor(tokenizer, f"encoder.down.{i}.block.0.conv1.weight", 4, vae) for i in range(levels)]
    codebook = _tensor(tokenizer, "quantize.embedding.weight", 2, vae)
    width = _tensor(transformer, "word_embed.weight", 2, var).shape[0]
    log_scale = transformer.get("blocks.0.attn.scale_mul_1H11")
    heads = log_scale.numel() if log_scale is not None else width // 64
    common: dict[str, Any] = {
        "scales": scales,
        "latent_channels": codebook.shape[1],
        "codebook_size": codebook.shape[0],
    }
    ours = {
        "base_channels": base,
        "channel_multipliers": [top.shape[0] // base for top in tops],
        "residual_blocks": _count(tokenizer, "encoder.down.0.block.{}.conv1.weight"),
        "shared_phi": max(1, _count(tokenizer, "quantize.quant_resi.qresi_ls.{}.weight")),
        "quant_conv_kernel": _tensor(tokenizer, "quant_conv.weight", 4, vae).shape[-1],
    }
    tokenizer_config = TokenizerConfig.from_dict(common | ours, vae)
    ours = {
        "width": width,
        "depth": _count(transformer, "blocks.{}.attn.proj.weight"),
        "heads": heads,
        "classes": {"num_classes": _tensor(transformer, "class_emb.weight", 2, var).shape[0] - 1},
        "norm": "layer",
        "mlp": "gelu",
        "mlp_ratio": _tensor(transformer, "blocks.0.ffn.fc1.weight", 2, var).shape[0] / width,
        "qk_norm": log_scale is not None,
        "level_embedding": "table",
        "position": "absolute",
        "modulation": "shared" if "shared_ada_lin.1.weight" in transformer else "linear",
    }
    return tokenizer_config, TransformerConfig.from_dict(common | ours, var)


def _tensor(state: Mapping[str, Tensor], name: str, dimensions: int, source: str) -> Tensor:
    """Return a tensor whose shape determines sizes: it must exist and not be empty."""
    if name not in state:
        raise CheckpointError(f"{source}: {name} is missing")
    if state[name].dim() != dimensions or state[name].numel() == 0:
        raise CheckpointError(f"{source}: {name} has {dimensions} dimensions, not the shape {tuple(state[name].shape)}")
    return state[name]


def _count(state: Mapping[str, Tensor], name: str) -> int:
    """Return how many tensors have this name with the numbers 0, 1, 2, ..."""
    return next(i for i in itertools.count() if name.format(i) not in state)
