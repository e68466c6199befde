"""Low-rank adapters of the transformer (LoRA; Hu et al., 2022) through the peft library.

An adapter is a folder in peft's own format:

    adapter_config.json            rank, scale, adapted layers, and the model it was trained on
    adapter_model.safetensors      the two thin matrices of every adapted layer

and, besides what peft reads:

    base_weights.json              some of the weights that it was trained on, see `base_remark`; optional

Training: `add_lora` once, then train the parameters that require a gradient, then `save_lora`. Generating:
`merge_lora` adds the product of the matrices to the weights, so that an adapted model costs no more than the plain one.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from hart.checkpoint.folders import ADAPTER_CONFIG, HART_FILE, MODEL_FOLDER
from hart.checkpoint.storage import SCALE, misfits, read_safetensors, require_finite, write_safetensors
from hart.config import Config, LoraTarget, Rank
from hart.devices import without_memory
from hart.errors import HartError, missing_package
from hart.files import AnyPath, read_json, user_path, write_text
from hart.generation.arguments import finite_number
from hart.model import Hart
from hart.strict import Listed, clipped, require, shown
from hart.transformer.transformer import HartTransformer

ADAPTER_FILE = "adapter_model.safetensors"
BASE_FILE = "base_weights.json"
SAMPLED_WEIGHTS = 8
"""Weights sampled from each adapted layer, spread over it."""
LARGEST_DIFFERENCE = 0.05
"""Root mean square of the differences, relative to that of the weights, up to which they count as the same: rounding to
8 bits gives 0.01, the shipped model differs from the version before by 0.09 to 0.14."""

LAYERS: Mapping[LoraTarget, tuple[str, ...]] = {
    "attention": ("attention.qkv", "attention.proj"),
    "mlp": ("mlp.gate", "mlp.up", "mlp.down", "mlp.linear1", "mlp.linear2"),
    "word_embed": ("word_embed",),
}
"""Linear layers that a target stands for, in SwiGLU and in GELU blocks."""

# peft's name of a model's only adapter, and its prefix of tensor names in a file.
ADAPTER = "default"
FILE_PREFIX = "base_model.model."

Alpha = Annotated[float, Field(ge=-1e6, le=1e6)]


def _layer(name: str) -> str:
    # peft treats anything else as a pattern, which it could match forever
    require(re.fullmatch(r"[\w.]+", name) is not None, "must be the name of a layer, or the end of one")
    return name


Layer = Annotated[str, AfterValidator(_layer)]
# Entries only about training or origin. All others but those of `Adapter` must be as in peft's defaults.
TRAINING = (
    "peft_type", "peft_version", "task_type", "auto_mapping", "revision", "inference_mode", "lora_dropout",
    "loftq_config", "qalora_group_size", "megatron_core",
)  # fmt: skip


class Adapter(Config, kw_only=True):
    """The entries of an adapter's configuration that determine the merged weights, and what it was trained on."""

    r: Rank
    lora_alpha: Alpha
    target_modules: Listed[Layer]
    rank_pattern: Mapping[Layer, Rank] = Field(default_factory=dict)
    alpha_pattern: Mapping[Layer, Alpha] = Field(default_factory=dict)
    use_rslora: bool = False
    init_lora_weights: Literal[True, False, "gaussian", "orthogonal"] = True
    """Other values change the weights of the model, too."""
    base_model_name_or_path: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.target_modules), "target_modules: names no layer")


def add_lora(
    hart: Hart,
    *,
    rank: int,
    alpha: int,
    generator: torch.Generator,
    targets: Sequence[LoraTarget] = ("attention", "mlp"),
) -> Hart:
    """Freeze `hart` and put adapters of `rank` beside the linear layers of its transformer; return the same module.

    The adapters are float32, change nothing at first, and are the only parameters that require a gradient.
    alpha: they act with the factor alpha / rank. generator: for their initial weights. Raises `HartError` if peft is
    not installed, the numbers are out of range, or the model already has adapters.
    """
    require_peft()
    if rank < 1 or alpha < 1:
        raise HartError(f"LoRA with rank {rank} and alpha {alpha}: both must be at least 1")
    if not targets or set(targets) - set(LAYERS):
        raise HartError(f"LoRA targets {shown(targets)}: give one or more of {', '.join(LAYERS)}")
    _require_plain(hart)
    hart.requires_grad_(False)
    present = [f".{name}" for name, _ in hart.transformer.named_modules()]
    asked = [layer for target in targets for layer in LAYERS[target]]
    layers = [layer for layer in asked if any(name.endswith(f".{layer}") for name in present)]
    _inject(hart.transformer, _peft().LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers))
    with torch.no_grad():
        for name, parameter in hart.transformer.named_parameters():
            if ".lora_A." in name:
                # initialised as in peft, but from this generator
                start = nn.init.kaiming_uniform_(torch.empty(parameter.shape), a=math.sqrt(5), generator=generator)
                parameter.copy_(start)
    return hart


class BaseWeights(Config):
    """The weights that an adapter was trained on."""

    layers: dict[str, Listed[float]]
    """Adapted layers of the transformer -> some of their weights, at the places of `_sampled`."""


def save_lora(hart: Hart, folder: AnyPath, *, base_model: str) -> None:
    """Write the adapters of a model that went through `add_lora`.

    base_model: folder or hub id of the model they were trained on, as information. Raises `HartError` for a model
    without adapters.
    """
    folder = user_path(folder)
    if not has_lora(hart):
        raise HartError("the model has no LoRA adapters: add_lora puts them beside its weights")
    tensors = _adapter_state(hart.transformer)
    write_safetensors(folder / ADAPTER_FILE, {FILE_PREFIX + name: value.cpu() for name, value in tensors.items()})
    sampled = {name: tuple(_sampled(layer.get_base_layer().weight).tolist()) for name, layer in _lora_layers(hart)}
    write_text(folder / BASE_FILE, json.dumps(BaseWeights(sampled).to_dict()) + "\n")
    configs: Any = hart.transformer.peft_config
    config = configs[ADAPTER]
    values = config.to_dict() | {
        "base_model_name_or_path": base_model,
        "target_modules": sorted(config.target_modules),
        "inference_mode": True,
    }
    # last, so that an unfinished folder is not taken for an adapter
    write_text(folder / ADAPTER_CONFIG, json.dumps(values, indent=2, sort_keys=True) + "\n")


def require_lora(folder: AnyPath) -> None:
    """Raise `HartError` for a folder without a LoRA adapter, or if peft is not installed; loads neither."""
    _read(user_path(folder))


def base_remark(hart: Hart, folder: AnyPath, model: str = "this model") -> str | None:
    """Return a remark if the adapter in a folder was trained on other weights than those of `hart`, which may be of any
    type, packed too, but without other adapters; None if they are the same, or the folder does not say.

    model: its name. Raises `HartError` for a damaged file.
    """
    folder = user_path(folder)
    if not (folder / BASE_FILE).exists():
        return None
    try:
        stored = BaseWeights.load(folder / BASE_FILE)
    except HartError as error:
        raise HartError(f"{error}: delete this file, without which the adapter works") from None
    there = [weight for weights in stored.layers.values() for weight in weights]
    try:
        here = [weight for name in stored.layers for weight in _sampled_of(hart.transformer.get_submodule(name))]
    except (AttributeError, KeyError):
        return None  # other sizes, which merging reports
    if len(there) != len(here):
        raise HartError(f"{folder / BASE_FILE}: lacks {SAMPLED_WEIGHTS} weights of each layer: delete this file")
    theirs, ours = torch.tensor(there, device="cpu"), torch.tensor(here, device="cpu")
    if (theirs - ours).norm() <= LARGEST_DIFFERENCE * theirs.norm():
        return None
    base = clipped(_read(folder)[0].base_model_name_or_path)
    return f"{folder}: this adapter was trained on other weights ({base}) than {model} has: it may do less, or harm"


def _sampled_of(layer: nn.Module) -> list[float]:
    """Return sampled weights of a layer. Raises `KeyError` for a module without a weight."""
    state = layer.state_dict()  # packed weights are plain in it
    scale = state.get("weight" + SCALE)  # of 8 bits
    return _sampled(state["weight"] if scale is None else state["weight"].float() * scale.unsqueeze(1)).tolist()


def _sampled(weight: Tensor) -> Tensor:
    """Return some numbers (SAMPLED_WEIGHTS,) of a weight, float32 on the CPU, always from the same places."""
    # steps of the golden ratio spread evenly, over rows and columns
    places = (
        torch.arange(1, SAMPLED_WEIGHTS + 1, dtype=torch.float64, device="cpu") * (5**0.5 - 1) / 2 % 1 * weight.numel()
    ).long()
    return weight.detach().flatten()[places.to(weight.device)].float().cpu()


def merge_lora(hart: Hart, folder: AnyPath, scale: float = 1.0, *, model: str = "this model") -> None:
    """Add the adapter in `folder`, times `scale`, to the transformer's weights, which stay frozen.

    model: its name in errors. Raises `HartError` and changes nothing if peft is not installed, or if the adapter is
    missing, damaged, not a LoRA, or for another model.
    """
    scale, folder = finite_number("LoRA scale", scale), user_path(folder)
    _require_plain(hart)
    config = _read_config(folder)
    tensors = {name.removeprefix(FILE_PREFIX): t for name, t in read_safetensors(folder / ADAPTER_FILE).items()}
    _check(hart.transformer, config, tensors, folder, model)
    tuner = _inject(hart.transformer, config)
    _peft().set_peft_model_state_dict(hart.transformer, tensors, adapter_name=ADAPTER)
    scale_lora(hart, scale)
    with torch.no_grad():
        tuner.merge_and_unload()
    if not all(weight.isfinite().all() for weight in hart.transformer.parameters()):
        raise HartError(
            f"{folder}: merged at scale {scale:g}, it takes weights out of the range of their type: lower the scale, "
            "unless the adapter is damaged"
        )


def scale_lora(hart: Hart, scale: float) -> None:
    """Let the adapters beside a model's weights act `scale` times as strongly as trained; 0: not at all."""
    for _, layer in _lora_layers(hart):
        layer.set_scale(ADAPTER, scale)


def has_lora(hart: Hart) -> bool:
    """Return whether the model has adapters beside its weights, from `add_lora`, not merged into them."""
    return hasattr(hart.transformer, "peft_config")


def require_peft() -> None:
    """Raise `HartError` without peft, but do not import it, which takes seconds."""
    if find_spec("peft") is None:
        raise missing_package("peft", "lora")


def _peft() -> Any:
    """Import the library only when needed: it is an extra, and slow to load."""
    require_peft()
    import peft

    return peft


def _lora_layers(hart: Hart) -> list[tuple[str, Any]]:
    """Return the adapted layers by name."""
    kind = _peft().tuners.lora.LoraLayer
    return [(name, layer) for name, layer in hart.transformer.named_modules() if isinstance(layer, kind)]


def _require_plain(hart: Hart) -> None:
    if has_lora(hart):
        raise HartError("this model already has LoRA adapters: start from the plain one")


def _adapter_state(transformer: HartTransformer) -> dict[str, Tensor]:
    state: dict[str, Tensor] = _peft().get_peft_model_state_dict(
        transformer, adapter_name=ADAPTER, save_embedding_layers=False
    )
    return state


def _inject(transformer: HartTransformer, config: Any) -> Any:
    """Put adapters beside the layers that `config` names, in float32; return peft's tuner."""
    with torch.random.fork_rng(devices=[]):  # peft samples initial weights, which are all overwritten
        tuner = _peft().LoraModel(transformer, config, ADAPTER)
    for name, parameter in transformer.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    return tuner


def _read(folder: Path) -> tuple[Adapter, dict[str, Any]]:
    """Return an adapter's configuration, and its other entries. Raises `HartError` naming the file, or without peft."""
    require_peft()
    path = folder / ADAPTER_CONFIG
    if not folder.is_dir():
        raise HartError(f"{folder}: no such folder: give that of a LoRA adapter (download one of a hub first)")
    if not os.path.lexists(path):
        said = f"no LoRA adapter here: expected {ADAPTER_CONFIG} and {ADAPTER_FILE}"
        if os.path.lexists(folder / HART_FILE):
            said = "holds a model, not a LoRA adapter: give it as the model (--model)"
        elif os.path.lexists(folder / MODEL_FOLDER / ADAPTER_CONFIG):
            said = f"no LoRA adapter here; the one of this training run is in {folder / MODEL_FOLDER}"
        raise HartError(f"{folder}: {said}")
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise HartError(f"{path}: an adapter of the kind {shown(values.get('peft_type'))}: only LORA can be merged")
    ours = {name: values.pop(name) for name in Adapter.__dataclass_fields__ if name in values}
    return Adapter.from_dict(ours, str(path)), values


def _read_config(folder: Path) -> Any:
    """Return peft's own configuration from checked values. Raises `HartError` naming the file and the entry."""
    adapter, others = _read(folder)
    plain = _peft().LoraConfig().to_dict()
    for name, value in others.items():
        if name not in TRAINING and value and value != plain.get(name):
            what = f"{shown(name)} is {shown(value)}, with which this adapter cannot be merged"
            raise HartError(f"{folder / ADAPTER_CONFIG}: {what}")
    known = adapter.to_dict() | {"target_modules": list(adapter.target_modules), "init_lora_weights": True}
    return _peft().LoraConfig(**known)


def _check(transformer: HartTransformer, config: Any, tensors: Mapping[str, Tensor], folder: Path, model: str) -> None:
    """Compare the adapter with one for this transformer, made on a copy without memory."""
    source = shown(config.base_model_name_or_path or "another model").strip("'")
    mismatch = f"{folder}: this adapter was trained on {source} and does not fit {model}"
    with without_memory():
        skeleton = HartTransformer(transformer.config)
        try:
            _inject(skeleton, config)
        except ValueError as error:  # the transformer has none of the layers
            raise HartError(f"{mismatch}: {error}") from None
    if problems := misfits(_adapter_state(skeleton), tensors):
        raise HartError(f"{mismatch}: {problems}")
    for name, value in tensors.items():
        require_finite(value, folder / ADAPTER_FILE, name)
