"""The published parameter names and configuration fields, mapped to ours.

Foreign names stay in this file. The model's own modules are named after what they compute.

    HART:  llm/config.json, llm/{*.safetensors, pytorch_model*.bin, ema_model.bin}, tokenizer/{config.json, ...}
    VAR:   vae*.pth, var*.pth
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from hart.checkpoint.storage import CheckpointError
from hart.config import (
    Config,
    ConfigError,
    ResidualDiffusionConfig,
    TokenizerConfig,
    TransformerConfig,
)

Rule = tuple[str, str]
AnyConfig = TypeVar("AnyConfig", bound=Config)

# Tensors that hold no weights: masks to recompute, zeros, usage statistics.
ROLELESS = re.compile(r"(lvl_1L|attn_bias_for_masking|.*zero_k_bias|.*ema_vocab_hit_SV)$")

TRANSFORMER_RULES: tuple[Rule, ...] = (
    (r"^blocks\.(\d+)\.attn\.(?:qkv_proj|mat_qkv)\.weight$", r"transformer.blocks.\1.attention.qkv.weight"),
    (r"^blocks\.(\d+)\.attn\.scale_mul_1H11$", r"transformer.blocks.\1.attention.log_scale"),
    (r"^blocks\.(\d+)\.attn\.(.+)$", r"transformer.blocks.\1.attention.\2"),
    (r"^blocks\.(\d+)\.ffn\.(gate|up|down)_proj\.weight$", r"transformer.blocks.\1.mlp.\2.weight"),
    (r"^blocks\.(\d+)\.ffn\.fc([12])\.(\w+)$", r"transformer.blocks.\1.mlp.linear\2.\3"),
    (r"^blocks\.(\d+)\.ln_wo_grad\.weight$", r"transformer.blocks.\1.norm.weight"),
    (r"^blocks\.(\d+)\.ada_lin\.1\.(\w+)$", r"transformer.blocks.\1.modulation.project.linear.\2"),
    (r"^blocks\.(\d+)\.scale_shift_table$", r"transformer.blocks.\1.modulation.table"),
    (r"^context_norm\.weight$", r"transformer.context_embedder.norm.weight"),
    (r"^context_embed\.(\w+)$", r"transformer.context_embedder.project.\1"),
    (r"^class_emb\.weight$", r"transformer.context_embedder.embedding.weight"),
    (r"^pos_start$", r"transformer.context_embedder.start"),
    (r"^pos_1LC$", r"transformer.positions"),
    (r"^word_embed\.(\w+)$", r"transformer.word_embed.\1"),
    (r"^lvl_embed\.mlp\.0\.(\w+)$", r"transformer.level_embedding.linear1.\1"),
    (r"^lvl_embed\.mlp\.2\.(\w+)$", r"transformer.level_embedding.linear2.\1"),
    (r"^lvl_embed\.weight$", r"transformer.level_embedding.embedding.weight"),
    (r"^head_nm\.ln_wo_grad\.weight$", r"transformer.head.norm.weight"),
    (r"^head_nm\.ada_lin\.1\.(\w+)$", r"transformer.head.modulation.linear.\1"),
    (r"^head\.(\w+)$", r"transformer.head.linear.\1"),
    (r"^decoder_norm\.weight$", r"residual.norm.weight"),
    (r"^diffloss\.net\.time_embed\.mlp\.0\.(\w+)$", r"residual.denoiser.time_embed.linear1.\1"),
    (r"^diffloss\.net\.time_embed\.mlp\.2\.(\w+)$", r"residual.denoiser.time_embed.linear2.\1"),
    (r"^diffloss\.net\.cond_embed\.(\w+)$", r"residual.denoiser.condition_embed.\1"),
    (r"^diffloss\.net\.input_proj\.(\w+)$", r"residual.denoiser.linear_in.\1"),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.in_ln\.(\w+)$", r"residual.denoiser.blocks.\1.norm.\2"),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.mlp\.0\.(\w+)$", r"residual.denoiser.blocks.\1.linear1.\2"),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.mlp\.2\.(\w+)$", r"residual.denoiser.blocks.\1.linear2.\2"),
    (
        r"^diffloss\.net\.res_blocks\.(\d+)\.adaLN_modulation\.1\.(\w+)$",
        r"residual.denoiser.blocks.\1.modulation.linear.\2",
    ),
    (r"^diffloss\.net\.final_layer\.adaLN_modulation\.1\.(\w+)$", r"residual.denoiser.modulation_out.linear.\1"),
    (r"^diffloss\.net\.final_layer\.linear\.(\w+)$", r"residual.denoiser.linear_out.\1"),
)

TOKENIZER_RULES: tuple[Rule, ...] = (
    (r"^(encoder|decoder)\.mid\.block_1\.(.+)$", r"\1.middle.0.\2"),
    (r"^(encoder|decoder)\.mid\.attn_1\.(.+)$", r"\1.middle.1.\2"),
    (r"^(encoder|decoder)\.mid\.block_2\.(.+)$", r"\1.middle.2.\2"),
    (r"^(encoder|decoder)\.(conv_in|norm_out|conv_out)\.(\w+)$", r"\1.\2.\3"),
    (r"^quantize\.embedding\.weight$", r"quantizer.codebook.weight"),
    (r"^quantize\.quant_resi\.qresi_ls\.(\d+)\.(\w+)$", r"quantizer.phis.\1.conv.\2"),
    (r"^quantize\.quant_resi\.qresi\.(\w+)$", r"quantizer.phis.0.conv.\1"),
    (r"^(quant_conv|post_quant_conv)\.(\w+)$", r"\1.\2"),
)

LEVEL_NAME = re.compile(r"^(encoder\.down|decoder\.up)\.(\d+)\.(block|attn|downsample|upsample)\.(.+)$")


def _apply(rules: tuple[Rule, ...], name: str) -> str | None:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return None


def transformer_state(published: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A published transformer's tensors under the names of `hart.model.Hart`.

    Raises `CheckpointError` naming tensors that have no counterpart.
    """
    state, unknown = {}, []
    for name, value in published.items():
        if ROLELESS.match(name):
            continue
        renamed = _apply(TRANSFORMER_RULES, name)
        if renamed is None:
            unknown.append(name)
            continue
        match renamed.rsplit(".", 1)[1]:
            case "log_scale" | "start":
                state[renamed] = value.flatten()
            case "positions":
                state[renamed] = value.squeeze(0)
            case _:
                state[renamed] = value
    _refuse_unknown(unknown, source)
    return state


def tokenizer_state(published: Mapping[str, Tensor], config: TokenizerConfig, source: str) -> dict[str, Tensor]:
    """A published tokenizer's tensors under the names of `HybridTokenizer`; a prefix `vae.` is dropped."""
    state, unknown = {}, []
    for name, value in published.items():
        bare = name.removeprefix("vae.")
        if ROLELESS.match(bare):
            continue
        renamed = _apply(TOKENIZER_RULES, bare) or _level_name(bare, config)
        if renamed is None:
            unknown.append(name)
            continue
        renamed = renamed.replace(".proj_out.", ".proj.").replace(".nin_shortcut.", ".skip.")
        state[renamed] = value
    _refuse_unknown(unknown, source)
    return state


def _level_name(name: str, config: TokenizerConfig) -> str | None:
    """Blocks and attentions of a level alternate in one sequence of ours; `up.0` is the highest resolution."""
    match = LEVEL_NAME.match(name)
    if match is None:
        return None
    side, number, kind, rest = match[1], int(match[2]), match[3], match[4]
    levels = len(config.channel_multipliers)
    lowest = number == levels - 1
    part = side.split(".")[0]
    level = number if part == "encoder" else levels - 1 - number
    blocks = config.residual_blocks if part == "encoder" else config.residual_blocks + 1
    stride = 2 if lowest else 1
    if kind in ("downsample", "upsample"):
        return f"{part}.levels.{level}.{blocks * stride}.{rest}"
    index, rest = rest.split(".", 1)
    position = int(index) * stride + (1 if kind == "attn" else 0)
    return f"{part}.levels.{level}.{position}.{rest}"


def _refuse_unknown(names: list[str], source: str) -> None:
    if names:
        raise CheckpointError(
            f"{source}: {len(names)} tensor(s) are of no published HART or VAR layout: {', '.join(names[:6])}"
        )


def _field(values: Mapping[str, Any], name: str, source: str) -> Any:
    if name not in values:
        raise ConfigError(f"{source}: the published configuration lacks {name}")
    return values[name]


def _checked(kind: type[AnyConfig], values: dict[str, Any], source: str) -> AnyConfig:
    """A configuration from published values, as strictly as from our own file; errors name `source`."""
    try:
        return kind.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def hart_tokenizer_config(values: Mapping[str, Any], source: str) -> TokenizerConfig:
    """`tokenizer/config.json` of the HART layout."""
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
    return _checked(TokenizerConfig, ours, source)


def hart_transformer_config(
    values: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: TokenizerConfig, source: str
) -> tuple[TransformerConfig, ResidualDiffusionConfig | None]:
    """`llm/config.json` of the HART layout; where a field is absent, the tensors tell."""
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
        # the published pooling option concerns the linear kind only; the table takes the mean
        "modulation_pooling": "max" if modulation == "linear" and max_pooling else "mean",
    }
    transformer = _checked(TransformerConfig, ours, source)
    if "diff_width" not in values:
        return transformer, None
    steps = values.get("num_sampling_steps", 8)
    diffusion = {
        "width": values["diff_width"],
        "depth": _field(values, "diff_depth", source),
        # published as text
        "sampling_steps": int(steps) if isinstance(steps, str) and steps.isdecimal() else steps,
        "batch_multiplier": values.get("diffusion_batch_mul", 4),
    }
    return transformer, _checked(ResidualDiffusionConfig, diffusion, source)


def _modulation_kind(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """The table wins over the other two, even when `disable_aln` is set."""
    if values.get("shared_aln", "blocks.0.scale_shift_table" in state):
        return "table"
    return "none" if values.get("disable_aln", "blocks.0.ada_lin.1.weight" not in state) else "linear"


def var_configs(
    tokenizer: Mapping[str, Tensor],
    transformer: Mapping[str, Tensor],
    scales: Sequence[int] | None,
    source: str,
) -> tuple[TokenizerConfig, TransformerConfig]:
    """Sizes of a VAR checkpoint, which stores none: they are read off its tensors.

    scales: the schedule; None takes the published one whose token count fits the position table.
    """
    positions = _tensor(transformer, "pos_1LC", source).shape[1]
    if scales is None:
        fitting = [s for s in PUBLISHED_VAR_SCALES if sum(n * n for n in s) == positions]
        if not fitting:
            raise ConfigError(
                f"{source}: no published VAR schedule has {positions} tokens: give patch_nums in case.json"
            )
        scales = fitting[0]
    encoder = [name for name in tokenizer if re.match(r"encoder\.down\.\d+\.block\.\d+\.conv1\.weight$", name)]
    levels = sorted({int(name.split(".")[2]) for name in encoder})
    base = _tensor(tokenizer, "encoder.conv_in.weight", source).shape[0]
    multipliers = tuple(tokenizer[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] // base for i in levels)
    codebook = _tensor(tokenizer, "quantize.embedding.weight", source)
    phis = sum(re.match(r"quantize\.quant_resi\.qresi_ls\.\d+\.weight$", name) is not None for name in tokenizer)
    width = _tensor(transformer, "word_embed.weight", source).shape[0]
    depth = 1 + max(int(name.split(".")[1]) for name in transformer if name.startswith("blocks."))
    log_scale = transformer.get("blocks.0.attn.scale_mul_1H11")
    if "blocks.0.ada_lin.1.weight" not in transformer:
        raise ConfigError(
            f"{source}: VAR with shared AdaLN (shared_aln) is not supported: no such weights are published"
        )
    heads = log_scale.numel() if log_scale is not None else width // 64
    common: dict[str, Any] = {
        "scales": scales,
        "latent_channels": codebook.shape[1],
        "codebook_size": codebook.shape[0],
    }
    ours = {
        "base_channels": base,
        "channel_multipliers": multipliers,
        "residual_blocks": len(encoder) // max(1, len(levels)),
        "shared_phi": max(1, phis),
        "quant_conv_kernel": _tensor(tokenizer, "quant_conv.weight", source).shape[-1],
    }
    tokenizer_config = _checked(TokenizerConfig, common | ours, source)
    ours = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "classes": {"num_classes": _tensor(transformer, "class_emb.weight", source).shape[0] - 1},
        "norm": "layer",
        "mlp": "gelu",
        "mlp_ratio": _tensor(transformer, "blocks.0.ffn.fc1.weight", source).shape[0] / width,
        "qk_norm": log_scale is not None,
        "level_embedding": "table",
        "position": "absolute",
        "modulation": "linear",
    }
    return tokenizer_config, _checked(TransformerConfig, common | ours, source)


# 256 and 512 px; VAR's checkpoints hold no schedule.
PUBLISHED_VAR_SCALES = (
    (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
)


def _tensor(state: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    if name not in state:
        raise CheckpointError(f"{source}: {name} is missing")
    return state[name]
