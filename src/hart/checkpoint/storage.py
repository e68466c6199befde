"""Weights on disk: safetensors, written atomically, read strictly; PyTorch's own files, read without running code."""

from __future__ import annotations

import errno
import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hart.checkpoint.folders import CheckpointError
from hart.devices import dtype_name, is_out_of_memory, require_room
from hart.files import PARTIAL, AnyPath, require_regular, user_path, whole_file
from hart.layers.quantized import LARGEST, QuantizedLinear
from hart.strict import clipped, reason, shown

WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Types of stored weights. 8-bit weights need a scale: see `hart.layers.quantized.QuantizedLinear`."""
SHOWN_PROBLEMS = 8
SCALE = "_scale"
"""Suffix that turns the name of an 8-bit weight into the name of its scales."""


def save_module(path: AnyPath, module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Save the parameters and buffers of `module`, optionally cast to `dtype`, as one safetensors file.

    Weights of 8 bits and their scales stay as they are.
    """
    state = module.state_dict()
    kept = {part for name in state if name + SCALE in state for part in (name, name + SCALE)}
    write_safetensors(
        path,
        {
            name: value.to("cpu", dtype if value.is_floating_point() and name not in kept else None)
            for name, value in state.items()
        },
    )


def write_safetensors(path: AnyPath, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors on the CPU as one safetensors file; see `whole_file`. Each is stored whole, tied ones too."""
    stored, memory = dict[str, Tensor](), set[int]()
    for name, value in tensors.items():
        whole = value.detach().contiguous()
        place = whole.untyped_storage().data_ptr()
        stored[name] = whole.clone() if place in memory else whole  # the library refuses shared memory
        memory.add(place)
    # in a folder, since the library first writes a file with another name, which a killed process leaves there
    with whole_file(user_path(path)) as file, TemporaryDirectory(dir=file.parent, prefix=".", suffix=PARTIAL) as folder:
        try:
            save_file(stored, Path(folder) / file.name, {"format": "pt"})  # as libraries of models write it
        except SafetensorError as error:
            raise OSError(errno.EIO, reason(error)) from None
        (Path(folder) / file.name).replace(file)


def read_safetensors(path: AnyPath, *, mapped: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a file. Raises `FileError` if it is missing, `CheckpointError` if it is truncated or of
    another format. mapped: as views of the file, for callers that only need sizes."""
    with _opened(user_path(path), mapped=mapped) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


@contextmanager
def _opened(path: Path, *, mapped: bool = False) -> Iterator[Any]:
    """Open a safetensors file whose tensors are read one by one. Raises like `read_safetensors`.

    mapped: tensors are views of the mapped file, of which memory holds what has been read.
    """
    require_regular(path)
    try:
        # with a mapped file, all tensors that were read count as memory of the process while it is open
        with safe_open(path, framework="pt", backend="mmap" if mapped else "pread") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({reason(error)}); copy or download it again"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file, or of PyTorch's own, as views of the file, which must not be written to
    meanwhile. Raises like `read_safetensors`."""
    return (read_safetensors if path.suffix == ".safetensors" else read_pickle)(path, mapped=True)


RENAMED_TENSORS = {
    "pieces.weight": "token_embedding.weight",
    "lift.weight": "embed_proj.weight",
    "lift.bias": "embed_proj.bias",
}
"""Maps names of the compact text encoder's tensors in the shipped model to names in modules, and in newer files."""
FIRST_NAMES = {new: old for old, new in RENAMED_TENSORS.items()}


def fingerprint(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """Return a hash that identifies weights: SHA-256 over names, shapes and float32 values, in hex.

    It does not depend on device or file format; weights rounded to a narrower type count as different.
    without: prefixes of names to leave out.
    """
    digest = hashlib.sha256()
    every = module.state_dict().items()
    # by the shipped names, by which data sets and runs know the model that they were made with
    state = {FIRST_NAMES.get(name, name): value for name, value in every if not name.startswith(without)}
    for name, value in sorted(state.items()):
        stored = value.detach().to("cpu", torch.float32 if value.is_floating_point() else None).contiguous()
        digest.update(f"{name} {tuple(stored.shape)}".encode())
        digest.update(stored.numpy())
    return digest.hexdigest()


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], source: Path | str, name_in_file: Callable[[str], str] = str
) -> None:
    """Copy `state` into `module` strictly, or raise `CheckpointError` and change nothing.

    Names, shapes and kinds of numbers must be the module's own; weights are of `WEIGHT_TYPES` and finite.
    source, name_in_file: the names of the file, and of a tensor in it, for errors.
    """
    _require_fitting(module, state, source, name_in_file)
    for name, value in state.items():
        require_finite(value, source, name_in_file(name))
    module.load_state_dict(dict(state))


def fill_state(
    module: nn.Module,
    state: MutableMapping[str, Tensor],
    dtype: torch.dtype | None,
    source: Path | str,
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Give a module that was built `without_memory` its weights, in `dtype` or as they are; errors as in `load_state`.

    Takes the tensors out of `state` one by one and copies them: they may be views of a file, or of one another.
    """
    _require_fitting(module, state, source, name_in_file)
    _require_room(state, dtype, source)
    for name in list(state):
        value = state.pop(name)
        require_finite(value, source, name_in_file(name))
        _put(module, name, value, dtype, copy=True)


def fill_module(
    module: nn.Module,
    path: Path,
    dtype: torch.dtype | None,
    *,
    eight_bits: Callable[[QuantizedLinear], nn.Module] = lambda layer: layer,
    mapped: str | None = None,
) -> None:
    """Do `fill_state` from a file, which is read tensor by tensor. Layers that it stores in 8 bits become 8-bit layers.

    eight_bits: makes the replacement of each of these as soon as it is read. If all were read first, the replacements
    would not fit into the gaps that they leave, and memory would hold much of them twice.
    mapped: a submodule whose weights are checked, but take no memory until it computes, if they are stored in its type:
    they stay in the file, which must not be written to in place as long as the module lives.
    """
    with _opened(path) as file, _opened(path, mapped=True) as views:
        stored = {RENAMED_TENSORS.get(name, name): name for name in file.keys()}  # noqa: SIM118 - no mapping
        state = {name: views.get_tensor(first) for name, first in stored.items()}
        _quantize_as(module, state)
        _require_fitting(module, state, path, str)
        _require_room({name: state[name] for name in state if not name.startswith(f"{mapped}.")}, dtype, path)
        for name in sorted(state, key=lambda name: state[name].dtype in LARGEST):  # after their scales and biases
            value = file.get_tensor(stored[name])
            require_finite(value, path, stored[name])
            _put(module, name, state[name] if name.startswith(f"{mapped}.") else value, dtype)
            owner = name.rpartition(".")[0]
            if value.dtype in LARGEST and isinstance(layer := module.get_submodule(owner), QuantizedLinear):
                module.set_submodule(owner, eight_bits(layer))


def _quantize_as(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Turn linear layers without memory into 8-bit layers if a file has their weights in 8 bits."""
    for path, layer in list(module.named_modules()):
        weight = state.get(f"{path}.weight")
        if isinstance(layer, nn.Linear) and weight is not None and weight.dtype in LARGEST:
            scale = torch.empty(layer.out_features, dtype=torch.float32, device=layer.weight.device)
            quantized = QuantizedLinear(type(layer), layer.weight.detach().to(weight.dtype), scale, layer.bias)
            module.set_submodule(path, quantized.train(layer.training))


def require_finite(value: Tensor, source: Path | str, name: str) -> None:
    """Raise `CheckpointError` if a tensor of weights holds a NaN or an infinite number."""
    # a finite sum has finite terms; they are checked one by one only if it overflowed
    if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
        raise CheckpointError(
            f"{source}: {name} holds numbers that are not finite: its training diverged, or the file is damaged"
        )


def _require_fitting(
    module: nn.Module, state: Mapping[str, Tensor], source: Path | str, name_in_file: Callable[[str], str]
) -> None:
    if problems := misfits(module.state_dict(), state, name_in_file):
        raise CheckpointError(f"{source}: does not fit the configuration beside it: {problems}")


def _require_room(state: Mapping[str, Tensor], dtype: torch.dtype | None, source: Path | str) -> None:
    """Raise `HartError` unless there is memory for these weights in `dtype`; those of 8 bits may stay so."""
    sizes = (t.nbytes if dtype is None or t.dtype in LARGEST else t.numel() * dtype.itemsize for t in state.values())
    require_room(sum(sizes), f"{source}: the weights", torch.device("cpu"))


def misfits(model: Mapping[str, Tensor], file: Mapping[str, Tensor], name_in_file: Callable[[str], str] = str) -> str:
    """Return how a file's tensors differ in name, shape or type from those a model takes; empty if they do not."""
    problems = [f"missing {name_in_file(name)}" for name in model if name not in file]
    problems += [f"unexpected {name_in_file(name)}" for name in file if name not in model]
    for name, ours in model.items():
        theirs = file.get(name, ours)
        if theirs.shape != ours.shape:
            said = f"is {tuple(theirs.shape)}, the model takes {tuple(ours.shape)}"
            problems.append(f"{name_in_file(name)} {said}")
        allowed = WEIGHT_TYPES if ours.dtype in WEIGHT_TYPES else (ours.dtype,)
        if theirs.dtype not in allowed:
            said = f"holds {dtype_name(theirs.dtype)}, not {' or '.join(map(dtype_name, allowed))}"
            problems.append(f"{name_in_file(name)} {said}")
    hidden = len(problems) - SHOWN_PROBLEMS
    return "; ".join(map(clipped, problems[:SHOWN_PROBLEMS])) + (f"; and {hidden} more" if hidden > 0 else "")


def _put(module: nn.Module, name: str, value: Tensor, dtype: torch.dtype | None, *, copy: bool = False) -> None:
    """Make `value`, or a copy if something else may write to it, the parameter or buffer `name` of a module."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    place: Tensor = getattr(owner, leaf)
    keeps_type = not place.is_floating_point() or (isinstance(owner, QuantizedLinear) and leaf != "bias")
    value = value.detach().to(place.dtype if keeps_type else dtype, copy=copy).contiguous()
    is_parameter = isinstance(place, nn.Parameter)
    setattr(owner, leaf, nn.Parameter(value, place.requires_grad) if is_parameter else value)


ADVICE = "ask for the weights as safetensors, or save a dictionary that holds tensors alone"
# How torch's errors name a class or function that a file wants to call.
FOREIGN = re.compile(r"GLOBAL (\S+)|Unsupported class (\S+)|build instruction for (\S+)")


def read_pickle(path: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """Return a file's tensors by name, like `read_safetensors`. Code in it is refused, not run (`weights_only`)."""
    require_regular(path)
    mapped = mapped and zipfile.is_zipfile(path)  # older files cannot be
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged files make the unpickler fail in many ways
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path}: {_refusal(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, not {type(state).__name__}: {ADVICE}")
    for name, value in state.items():
        if fault := _fault(name, value):
            raise CheckpointError(f"{path}: expected a dictionary of tensors, but {shown(name)} {fault}: {ADVICE}")
    return dict(state)


def _fault(name: object, value: object) -> str:
    """Return what is wrong with an entry that is not a named tensor of ordinary numbers; empty if it is one."""
    if not isinstance(name, str):
        return "is not a name"
    if not isinstance(value, Tensor):
        return f"is {type(value).__name__}"
    if value.is_quantized or value.layout != torch.strided or value.is_nested:
        return "is a sparse, nested or quantised tensor"
    if value.is_meta or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "is a tensor without all of its numbers"
    return ""


def _refusal(error: Exception) -> str:
    found = FOREIGN.search(str(error))
    if found is not None:
        foreign = next(name for name in found.groups() if name is not None)
        return f"holds {foreign}, which is not a tensor; it is not opened, since that could run code in it: {ADVICE}"
    return "not a readable PyTorch weight file: truncated, damaged or of another format; copy or download it again"
