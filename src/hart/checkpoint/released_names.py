"""The published tensor names and this project's. Published names appear only here; the model's own modules are named
after what they compute.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor, nn

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.storage import fill_state
from hart.config import HartConfig, TokenizerConfig

Row = tuple[str, str]
"""A published name and this project's; {i} is a number, {p} is `weight` or `bias`."""

# Tensors that are not weights: masks that can be recomputed, zeros, usage statistics.
ROLELESS = re.compile(r"(lvl_1L|attn_bias_for_masking|.*zero_k_bias|.*ema_vocab_hit_SV)$")

MODEL_ROWS: tuple[Row, ...] = (
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


def _all_names(rows: Iterable[Row], numbers: int) -> dict[str, str]:
    """Map published names to this project's, for tensors numbered from 0 up to `numbers`."""
    every = [(i, p) for i in range(numbers) for p in ("weight", "bias")]
    return {theirs.format(i=i, p=p): ours.format(i=i, p=p) for theirs, ours in rows for i, p in every}


def model_names(config: HartConfig) -> dict[str, str]:
    """Map published names to names in `hart.model.Hart`."""
    depths = [part.depth for part in (config.transformer, config.diffusion) if part is not None]
    return _all_names(MODEL_ROWS, max(depths))


def tokenizer_names(config: TokenizerConfig, published: Iterable[str] = ()) -> dict[str, str]:
    """Map published names to names in `HybridTokenizer`; those of a file, `published`, may all begin with `vae.`."""
    prefix = "vae." if any(name.startswith("vae.") for name in published) else ""
    return _all_names(((prefix + theirs, ours) for theirs, ours in _tokenizer_rows(config)), config.shared_phi)


def fill_published(
    module: nn.Module,
    published: MutableMapping[str, Tensor],
    source: str,
    names: dict[str, str],
    dtype: torch.dtype | None,
) -> None:
    """Do `fill_state` with published tensors, which are taken out of `published`. source: their file, for errors.
    names: maps published names to this project's."""
    own, tensors, in_file = module.state_dict(), dict[str, Tensor](), dict[str, str]()
    for name in list(published):
        value, ours = published.pop(name), names.get(name, name)
        if ROLELESS.match(name):
            continue
        if ours in tensors:
            raise CheckpointError(f"{source}: {in_file[ours]} and {name} are two names of one tensor")
        # some published tensors have dimensions of 1 for broadcasting
        if ours in own and value.squeeze().shape == own[ours].squeeze().shape:
            value = value.reshape(own[ours].shape)
        tensors[ours], in_file[ours] = value, name

    def name_in_file(ours: str) -> str:
        """Return the name in the file; for a missing tensor all that it may have, since the layouts differ."""
        return in_file.get(ours) or " or ".join(theirs for theirs, own in names.items() if own == ours)

    fill_state(module, tensors, dtype, source, name_in_file)
