"""The published tensor names and this project's, in one table that is read both ways: for loading and for errors.

Published names appear only here. The model's own modules are named after what they compute.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.storage import fill_state
from hart.config import TokenizerConfig
from hart.strict import clipped, counted

Row = tuple[str, str]
"""A published name and this project's; {i} is a number, {p} is `weight` or `bias`."""

PLACEHOLDERS = {"{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>weight|bias)"}

# Tensors that are not weights: masks that can be recomputed, zeros, usage statistics.
ROLELESS = re.compile(r"(lvl_1L|attn_bias_for_masking|.*zero_k_bias|.*ema_vocab_hit_SV)$")

TRANSFORMER_ROWS: tuple[Row, ...] = (
    ("blocks.{i}.attn.qkv_proj.weight", "transformer.blocks.{i}.attention.qkv.weight"),
    ("blocks.{i}.attn.mat_qkv.weight", "transformer.blocks.{i}.attention.qkv.weight"),
    ("blocks.{i}.attn.q_bias", "transformer.blocks.{i}.attention.q_bias"),
    ("blocks.{i}.attn.v_bias", "transformer.blocks.{i}.attention.v_bias"),
    ("blocks.{i}.attn.scale_mul_1H11", "transformer.blocks.{i}.attention.log_scale"),
    ("blocks.{i}.attn.proj.{p}", "transformer.blocks.{i}.attention.proj.{p}"),
    ("blocks.{i}.ffn.gate_proj.weight", "transformer.blocks.{i}.mlp.gate.weight"),
    ("blocks.{i}.ffn.up_proj.weight", "transformer.blocks.{i}.mlp.up.weight"),
    ("blocks.{i}.ffn.down_proj.weight", "transformer.blocks.{i}.mlp.down.weight"),
    ("blocks.{i}.ffn.fc1.{p}", "transformer.blocks.{i}.mlp.linear1.{p}"),
    ("blocks.{i}.ffn.fc2.{p}", "transformer.blocks.{i}.mlp.linear2.{p}"),
    ("blocks.{i}.ln_wo_grad.weight", "transformer.blocks.{i}.norm.weight"),
    ("blocks.{i}.ada_lin.1.{p}", "transformer.blocks.{i}.modulation.project.linear.{p}"),
    ("blocks.{i}.scale_shift_table", "transformer.blocks.{i}.modulation.table"),
    ("blocks.{i}.ada_gss", "transformer.blocks.{i}.modulation.table"),
    ("shared_ada_lin.1.{p}", "transformer.context_embedder.block_projection.linear.{p}"),
    ("context_norm.weight", "transformer.context_embedder.norm.weight"),
    ("context_embed.{p}", "transformer.context_embedder.project.{p}"),
    ("class_emb.weight", "transformer.context_embedder.embedding.weight"),
    ("pos_start", "transformer.context_embedder.start"),
    ("pos_1LC", "transformer.positions"),
    ("word_embed.{p}", "transformer.word_embed.{p}"),
    ("lvl_embed.mlp.0.{p}", "transformer.level_embedding.linear1.{p}"),
    ("lvl_embed.mlp.2.{p}", "transformer.level_embedding.linear2.{p}"),
    ("lvl_embed.weight", "transformer.level_embedding.embedding.weight"),
    ("head_nm.ln_wo_grad.weight", "transformer.head.norm.weight"),
    ("head_nm.ada_lin.1.{p}", "transformer.head.modulation.linear.{p}"),
    ("head.{p}", "transformer.head.linear.{p}"),
    ("decoder_norm.weight", "residual.norm.weight"),
    ("diffloss.net.time_embed.mlp.0.{p}", "residual.denoiser.time_embed.linear1.{p}"),
    ("diffloss.net.time_embed.mlp.2.{p}", "residual.denoiser.time_embed.linear2.{p}"),
    ("diffloss.net.cond_embed.{p}", "residual.denoiser.condition_embed.{p}"),
    ("diffloss.net.input_proj.{p}", "residual.denoiser.linear_in.{p}"),
    ("diffloss.net.res_blocks.{i}.in_ln.{p}", "residual.denoiser.blocks.{i}.norm.{p}"),
    ("diffloss.net.res_blocks.{i}.mlp.0.{p}", "residual.denoiser.blocks.{i}.linear1.{p}"),
    ("diffloss.net.res_blocks.{i}.mlp.2.{p}", "residual.denoiser.blocks.{i}.linear2.{p}"),
    ("diffloss.net.res_blocks.{i}.adaLN_modulation.1.{p}", "residual.denoiser.blocks.{i}.modulation.linear.{p}"),
    ("diffloss.net.final_layer.adaLN_modulation.1.{p}", "residual.denoiser.modulation_out.linear.{p}"),
    ("diffloss.net.final_layer.linear.{p}", "residual.denoiser.linear_out.{p}"),
)

# Layers of a block and of an attention in the autoencoder.
BLOCK_ROWS: tuple[Row, ...] = (
    *((f"{name}.{{p}}", f"{name}.{{p}}") for name in ("norm1", "conv1", "norm2", "conv2")),
    ("nin_shortcut.{p}", "skip.{p}"),
)
ATTENTION_ROWS: tuple[Row, ...] = (("norm.{p}", "norm.{p}"), ("qkv.{p}", "qkv.{p}"), ("proj_out.{p}", "proj.{p}"))


def _under(published: str, ours: str, rows: Sequence[Row]) -> Iterator[Row]:
    """Return `rows` with a prefix for each of the two names."""
    return ((f"{published}.{theirs}", f"{ours}.{own}") for theirs, own in rows)


def _tokenizer_rows(config: TokenizerConfig) -> Iterator[Row]:
    """Encoder, decoder, quantiser. The published decoder counts its levels from the highest resolution, ours from the
    lowest.

    At the lowest resolution an attention follows each block; ours are in one sequence.
    """
    lowest = len(config.channel_multipliers) - 1
    for part, levels, resampling in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        for name in ("conv_in", "norm_out", "conv_out"):
            yield f"{part}.{name}.{{p}}", f"{part}.{name}.{{p}}"
        yield from _under(f"{part}.mid.block_1", f"{part}.middle.0", BLOCK_ROWS)
        yield from _under(f"{part}.mid.attn_1", f"{part}.middle.1", ATTENTION_ROWS)
        yield from _under(f"{part}.mid.block_2", f"{part}.middle.2", BLOCK_ROWS)
        blocks = config.residual_blocks + (part == "decoder")
        for number in range(lowest + 1):
            theirs = f"{part}.{levels}.{number}"
            ours = f"{part}.levels.{number if part == 'encoder' else lowest - number}"
            stride = 2 if number == lowest else 1
            for block in range(blocks):
                yield from _under(f"{theirs}.block.{block}", f"{ours}.{block * stride}", BLOCK_ROWS)
                if number == lowest:
                    yield from _under(f"{theirs}.attn.{block}", f"{ours}.{block * stride + 1}", ATTENTION_ROWS)
            yield f"{theirs}.{resampling}.conv.{{p}}", f"{ours}.{blocks * stride}.conv.{{p}}"
    yield "quantize.embedding.weight", "quantizer.codebook.weight"
    if config.shared_phi == 1:
        yield "quantize.quant_resi.qresi.{p}", "quantizer.phis.0.conv.{p}"
    else:
        yield "quantize.quant_resi.qresi_ls.{i}.{p}", "quantizer.phis.{i}.conv.{p}"
    for name in ("quant_conv", "post_quant_conv"):
        yield f"{name}.{{p}}", f"{name}.{{p}}"


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Return a pattern for what a name of a row stands for."""
    pattern = re.escape(name)
    for placeholder, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(re.escape(placeholder), expression)
    return re.compile(pattern)


def _translated(name: str, source: str, target: str) -> str | None:
    """Return the counterpart of `name` in `target`, if it matches `source`."""
    match = _pattern(source).fullmatch(name)
    return target.format(**match.groupdict()) if match is not None else None


@dataclass(frozen=True)
class NameTable:
    """Rows of names, read both ways."""

    rows: tuple[Row, ...]

    def ours(self, published: str) -> str | None:
        """Return our name of a published tensor; None if no layout has this name."""
        found = (_translated(published, theirs, own) for theirs, own in self.rows)
        return next((name for name in found if name is not None), None)

    def published(self, ours: str) -> str:
        """Return the published name of one of our tensors; if the layouts differ, all of them."""
        found = (_translated(ours, own, theirs) for theirs, own in self.rows)
        return " or ".join(name for name in found if name is not None)


TRANSFORMER_NAMES = NameTable(TRANSFORMER_ROWS)
"""Names in `hart.model.Hart`."""


def tokenizer_names(config: TokenizerConfig, published: Iterable[str] = ()) -> NameTable:
    """Return the names in `HybridTokenizer` for a file with `published` names, which may all begin with `vae.`."""
    prefix = "vae." if any(name.startswith("vae.") for name in published) else ""
    return NameTable(tuple((prefix + theirs, own) for theirs, own in _tokenizer_rows(config)))


@dataclass(frozen=True)
class PublishedWeights:
    """Tensors of a published file under our names. source: the file, for errors."""

    tensors: dict[str, Tensor]
    """Emptied as they are loaded."""
    names: Mapping[str, str]
    """Maps our names to those in the file."""
    table: NameTable
    source: str

    def fill(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        """Fill a module without memory with these weights, see `fill_state`."""
        fill_state(module, self.tensors, dtype, self.source, self.name_in_file)

    def name_in_file(self, ours: str) -> str:
        """Return the name in the file of one of our tensors, or the one that it should have."""
        return self.names.get(ours) or self.table.published(ours)


def renamed(published: MutableMapping[str, Tensor], table: NameTable, source: str) -> PublishedWeights:
    """Take the tensors out of `published`. Raises `CheckpointError` naming those that have no counterpart."""
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    unknown = []
    for name in list(published):
        value = published.pop(name)
        if ROLELESS.match(name):
            continue
        ours = table.ours(name)
        if ours is None:
            unknown.append(name)
        elif ours in names:
            raise CheckpointError(f"{source}: {names[ours]} and {name} are two names of one tensor")
        else:
            tensors[ours], names[ours] = _in_our_shape(ours, value), name
    if unknown:
        listed = ", ".join(map(clipped, unknown[:6]))
        raise CheckpointError(
            f"{source}: {counted(len(unknown), 'tensor')} not in any published HART or VAR layout: {listed}"
        )
    return PublishedWeights(tensors, names, table, source)


def _in_our_shape(ours: str, value: Tensor) -> Tensor:
    """Remove the dimensions of 1 that some published tensors have for broadcasting."""
    match ours.rsplit(".", 1)[1]:
        case "log_scale" | "start":
            return value.flatten()
        case "positions":
            return value.squeeze(0)
        case "table":
            return value.squeeze(0).squeeze(0)
        case _:
            return value
