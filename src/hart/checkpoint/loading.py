"""Opens a model or its tokenizer from a folder or a Hugging Face id, in the published layouts or in this project's own.

A model is loaded and checked whole or not at all. `random_model` makes one of any configuration without a file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hart.checkpoint.folders import (
    CONFIG_FILE,
    HART_FILE,
    SHIPPED_MODELS,
    TOKENIZER_FILE,
    CheckpointError,
    Layout,
    has_tokenizer,
    layout_of,
    local_folder,
)
from hart.checkpoint.hub import download
from hart.checkpoint.released_names import fill_published, model_names, tokenizer_names
from hart.checkpoint.released_weights import WEIGHT_FILES, hart_tokenizer_config, hart_transformer_config, var_configs
from hart.checkpoint.storage import fill_module, fingerprint, read_tensors, save_module
from hart.config import Config, ConfigError, HartConfig, TextEncoderConfig, TokenizerConfig, TransformerConfig
from hart.devices import dtype_name, give_memory, require_room, without_memory
from hart.errors import HartError
from hart.files import AnyPath, is_file_name, read_json, readable_folder, user_path, write_text
from hart.hub import is_hub_id
from hart.layers.quantized import LARGEST, QuantizedLinear
from hart.model import Hart
from hart.presets import PRESETS, RELEASED_TEXT_ENCODER, VAR_SAMPLING
from hart.strict import clipped, shown
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A whole model on the CPU in evaluation mode, and the folder that it came from (for its text encoder)."""

    config: HartConfig
    tokenizer: HybridTokenizer
    hart: Hart
    folder: Path


def resolve_model(name: AnyPath, *, or_sizes: bool = False) -> Path:
    """Return the folder of a model: one shipped with the package, a path, or a Hugging Face id, which is downloaded.

    or_sizes: whether a preset, which has no weights and which the caller has looked for, could have been meant too.
    Raises `CheckpointError` if it is none of these, naming the possible ones.
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise CheckpointError(f"model {shown(name)}: give a name, a folder or a hub id as text, or a path")
    text = os.fspath(name)
    if (folder := local_folder(name)) is not None:
        return folder
    if os.path.isfile(user_path(text)):  # noqa: PTH113 - or a name of none
        raise CheckpointError(f"{text}: is a file: give the folder of the model that it belongs to")
    names = ", ".join(sorted(p.parent.name for p in SHIPPED_MODELS.glob(f"*/{CONFIG_FILE}")))
    if isinstance(name, str) and is_hub_id(text):
        return download(text)
    if text in PRESETS:
        raise CheckpointError(
            f"{text} is a size without weights: give a model of that size, or take random weights, which some commands "
            "have (--random-weights; HartPipeline.from_config)"
        )
    if os.path.basename(text) != text:  # noqa: PTH119 - a path would lose what it ends in
        raise CheckpointError(f"model {clipped(text)!r}: there is no such folder, and a hub id is OWNER/NAME")
    sizes = f"; sizes without weights are: {', '.join(PRESETS)}" if or_sizes else ""
    raise CheckpointError(
        f"unknown model {clipped(text)!r}: no folder, no hub id, and the shipped models are: {names}{sizes}"
    )


def load_model(
    folder: AnyPath,
    dtype: torch.dtype = torch.float32,
    *,
    eight_bits: Callable[[QuantizedLinear], nn.Module] | None = None,
    tokenizer_dtype: torch.dtype | None = torch.float32,
) -> LoadedModel:
    """Load any supported layout; each tensor is read, converted and freed before the next one.

    dtype: of transformer and residual diffusion. eight_bits: makes the replacement of each layer stored in 8 bits; by
    default, and if the configuration says `dequantize`, an ordinary layer with its values. tokenizer_dtype: None
    leaves the tokenizer as it is stored, and its encoder's weights in the file until something is encoded. Raises
    `HartError`.
    """
    folder = readable_folder(user_path(folder))
    layout = layout_of(folder)
    published = None if layout == "own" else _published(folder, layout)
    config = HartConfig.load(folder / CONFIG_FILE) if published is None else published[0]
    with without_memory():
        tokenizer, hart = build(config)
    if published is None:
        at_rest = "encoder" if tokenizer_dtype is None else None  # generation does not need it
        fill_module(tokenizer, folder / TOKENIZER_FILE, tokenizer_dtype, mapped=at_rest)
        if eight_bits is None or config.dequantize:
            eight_bits = partial(_ordinary, dtype=dtype)
        fill_module(hart, folder / HART_FILE, dtype, eight_bits=eight_bits)
    else:
        _, vae, weights = published
        fill_published(tokenizer, *vae, tokenizer_names(config.tokenizer, vae[0]), tokenizer_dtype)
        fill_published(hart, *weights, model_names(config), dtype)
    return LoadedModel(config, tokenizer, hart, folder)


def _ordinary(layer: QuantizedLinear, dtype: torch.dtype) -> nn.Module:
    with without_memory():  # no random numbers for a weight that is replaced at once
        return layer.dequantized(dtype)


def load_config(name: AnyPath) -> HartConfig:
    """Return the configuration of a model, of the preset `name`, or of the JSON file `name`.

    The published layouts store no complete configuration: the sizes of their weights complete it. Raises `HartError`.
    """
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]()
    path = user_path(name)
    if path.suffix == ".json":
        return HartConfig.load(path)
    folder = resolve_model(name, or_sizes=True)
    layout = layout_of(folder)
    return HartConfig.load(folder / CONFIG_FILE) if layout == "own" else _published(folder, layout)[0]


def opens_in_8_bits(folder: Path) -> bool:
    """Return whether a model has layers that are stored in 8 bits and stay so. Raises `HartError`."""
    if layout_of(folder) != "own" or HartConfig.load(folder / CONFIG_FILE).dequantize:
        return False
    return any(tensor.dtype in LARGEST for tensor in read_tensors(folder / HART_FILE).values())


def save_model(
    folder: AnyPath, config: HartConfig, tokenizer: HybridTokenizer, hart: Hart, dtype: torch.dtype | None = None
) -> None:
    """Write the project's layout; the configuration last, so that an unfinished folder is not taken for a model.

    dtype: how weights are stored, None as they are.
    """
    folder = user_path(folder)
    save_module(folder / TOKENIZER_FILE, tokenizer, dtype)
    save_module(folder / HART_FILE, hart, dtype)
    write_text(folder / CONFIG_FILE, config.to_json())


def save_tokenizer(folder: AnyPath, tokenizer: HybridTokenizer) -> None:
    """Write a tokenizer alone; the configuration last, as in `save_model`."""
    folder = user_path(folder)
    save_module(folder / TOKENIZER_FILE, tokenizer)
    write_text(folder / CONFIG_FILE, tokenizer.config.to_json())


def load_tokenizer(name: AnyPath) -> HybridTokenizer:
    """Load a tokenizer in evaluation mode: one that `save_tokenizer` wrote, or that of any model (`resolve_model`), of
    which nothing else is read.

    Raises `HartError`.
    """
    folder, layout = _with_tokenizer(name)
    with without_memory():
        tokenizer = HybridTokenizer(tokenizer_config(folder)).eval()
    if layout == "own":
        fill_module(tokenizer, folder / TOKENIZER_FILE, torch.float32)
    else:
        vae = _published(folder, layout)[1]
        fill_published(tokenizer, *vae, tokenizer_names(tokenizer.config, vae[0]), torch.float32)
    return tokenizer


def tokenizer_config(name: AnyPath) -> TokenizerConfig:
    """Return the configuration of what `load_tokenizer` opens."""
    folder, layout = _with_tokenizer(name)
    if layout != "own":
        return load_config(folder).tokenizer
    path = folder / CONFIG_FILE
    # also for a model's configuration beside a tokenizer copied out of the model
    of_model = "tokenizer" in read_json(path)
    return HartConfig.load(path).tokenizer if of_model else TokenizerConfig.load(path)


def _with_tokenizer(name: AnyPath) -> tuple[Path, Layout]:
    """Return the folder of a tokenizer, or of a model with one, and its layout. Raises `HartError`."""
    folder = resolve_model(name)
    return folder, "own" if has_tokenizer(folder) else layout_of(folder, or_tokenizer=True)


def over_scales(tokenizer: HybridTokenizer, scales: tuple[int, ...]) -> HybridTokenizer:
    """Return the same weights for other scales, in evaluation mode; the last scale decides the image size."""
    other = HybridTokenizer(tokenizer.config.replace(scales=scales))
    other.load_state_dict(tokenizer.state_dict())
    return other.eval()


def with_decoder(model: LoadedModel, name: AnyPath) -> LoadedModel:
    """Return a model with the tokenizer `name`, of which only the decoder may differ from the model's own.

    Raises `HartError` if images would get other codes, which the transformer does not know.
    """
    ours, theirs = model.tokenizer, over_scales(load_tokenizer(name), model.tokenizer.config.scales)
    codes = [
        (each.config.replace(output_padding="zeros", commitment_weight=0), fingerprint(each, each.DECODING))
        for each in (ours, theirs)
    ]
    if codes[0] != codes[1]:
        raise HartError(
            f"tokenizer {name}: gives images other codes than the model's own; only its decoder may differ, as after "
            "training with decoder_only = true"
        )
    return replace(model, tokenizer=theirs, config=model.config.replace(tokenizer=theirs.config))


def same_sizes(source: str, theirs: Config, ours: Config, *, besides: Set[str]) -> None:
    """Raise `ConfigError` naming the keys in which a source's configuration differs from the recipe's.

    besides: keys that may differ.
    """
    there, here = theirs.to_dict(), ours.to_dict()
    table = {TokenizerConfig: "tokenizer", TransformerConfig: "transformer"}.get(type(ours), "diffusion")
    differing = [name for name in here if name not in besides and there[name] != here[name]]
    if differing:
        said = (
            f"{table}.{name} is {json.dumps(there[name])} there and {json.dumps(here[name])} in the recipe"
            for name in differing
        )
        raise ConfigError(
            f"init_from {source}: has other sizes: {', '.join(said)}: set them as there, or leave init_from out"
        )


def build(config: HartConfig) -> tuple[HybridTokenizer, Hart]:
    """Build the modules of a configuration with random weights, in evaluation mode."""
    return HybridTokenizer(config.tokenizer).eval(), Hart(config).eval()


Weights = tuple[dict[str, Tensor], str]
"""Published tensors, and the name of their file."""
Published = tuple[HartConfig, Weights, Weights]
"""A configuration, and the weights of tokenizer and model: views of their files, so that weights that are not used are
never read."""


def _published(folder: Path, layout: Literal["hart", "var"]) -> Published:
    return (_hart_layout if layout == "hart" else _var_layout)(folder)


def _hart_layout(folder: Path) -> Published:
    vae, llm = _read_weights(folder / "tokenizer"), _read_weights(folder / "llm")
    vae_file, llm_file = folder / "tokenizer" / CONFIG_FILE, folder / "llm" / CONFIG_FILE
    tokenizer = hart_tokenizer_config(read_json(vae_file), str(vae_file))
    transformer, diffusion = hart_transformer_config(read_json(llm_file), llm[0], tokenizer, str(llm_file))
    assert transformer.text is not None
    config = HartConfig(
        tokenizer=tokenizer.replace(scales=transformer.scales),
        transformer=transformer,
        diffusion=diffusion,
        text_encoder=TextEncoderConfig(
            kind="qwen2", tokens=transformer.text.tokens, source=RELEASED_TEXT_ENCODER, instruction=True
        ),
    )
    return config, vae, llm


def _var_layout(folder: Path) -> Published:
    files, case = (_only(folder, "vae*.pth"), _only(folder, "var*.pth")), folder / "case.json"
    vae, var = ((read_tensors(file), str(file)) for file in files)
    scales = read_json(case).get("patch_nums") if os.path.lexists(case) else None
    tokenizer, transformer = var_configs(vae[0], var[0], scales, (vae[1], var[1]))
    return HartConfig(tokenizer, transformer, sampling=VAR_SAMPLING), vae, var


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckpointError(f"{folder}: expected one file {pattern}, found {len(found)}")
    return found[0]


def _read_weights(folder: Path) -> Weights:
    """Return the tensors of a published folder and their source: averaged weights, else safetensors, else .bin."""
    for pattern in WEIGHT_FILES:
        files = _shards(folder, pattern)
        if files:
            state: dict[str, Tensor] = {}
            for file in files:
                tensors = read_tensors(file)
                if twice := sorted(tensors.keys() & state.keys()):
                    raise CheckpointError(f"{file}: {twice[0]} is also in another file of {folder}")
                state |= tensors
            return state, str(files[0]) if len(files) == 1 else f"{folder}/{pattern}"
    raise CheckpointError(f"{folder}: no weights: expected {', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}")


def _shards(folder: Path, pattern: str) -> list[Path]:
    """Return the weight files of a folder; an index file beside them lists those that must be there."""
    found = sorted(folder.glob(pattern))
    for index in sorted(folder.glob(f"{pattern}.index.json")):
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{index}: no weight_map in it, which names the file of every tensor")
        wanted = sorted(set(shards.values()))
        if outside := [name for name in wanted if not is_file_name(name)]:
            raise CheckpointError(f"{index}: {shown(outside[0])} is not the name of a file in {folder}")
        missing = [name for name in wanted if not (folder / name).exists()]
        if missing:
            raise CheckpointError(f"{folder}: {index.name} names {', '.join(missing[:8])}, not in the folder")
        return [folder / name for name in wanted]
    return found


@torch.no_grad()
def random_model(
    config: HartConfig, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> tuple[HybridTokenizer, Hart]:
    """Return tokenizer and model in evaluation mode on the generator's device, filled from `generator`.

    Memory never holds more than the weights in `dtype`, and one of them in float32. Weights are scaled so that
    activations stay near 1; the images are noise. To start a training, use `hart.training.transformer_task` instead.
    """
    with without_memory():
        modules = build(config)
    count = sum(p.numel() for module in modules for p in module.parameters())
    require_room(count * dtype.itemsize, f"weights in {dtype_name(dtype)}", generator.device)
    for module in modules:
        give_memory(module, generator.device, dtype)
        for layer in module.modules():
            _fill(layer, generator)
    return modules


def _fill(layer: nn.Module, generator: torch.Generator) -> None:
    """Initialise norms as identity, other vectors as zero, matrices and kernels as normal with variance 1 / inputs."""
    for name, parameter in layer.named_parameters(recurse=False):
        if parameter.dim() == 1:
            is_gain = name == "weight" and isinstance(layer, nn.RMSNorm | nn.LayerNorm | nn.GroupNorm)
            parameter.fill_(1.0 if is_gain else 0.0)
        else:
            inputs = math.prod(parameter.shape[1:])
            # in float32, so that a seed gives the same model in every type: PyTorch 2.11 draws other numbers in
            # bfloat16
            drawn = torch.empty_like(parameter, dtype=torch.float32)
            parameter.copy_(drawn.normal_(0.0, 1 / math.sqrt(inputs), generator=generator))
