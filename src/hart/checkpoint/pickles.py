"""PyTorch's own weight files (.bin, .pth): dictionaries of plain tensors alone, read without running code."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from hart.checkpoint.storage import CheckpointError
from hart.devices import is_out_of_memory
from hart.files import FileError, require_regular
from hart.strict import shown

ADVICE = "ask for the weights as safetensors, or save a dictionary of tensors alone"
# How torch names, in its own errors, a class or function that a file wants to call.
FOREIGN = re.compile(r"GLOBAL (\S+)|Unsupported class (\S+)|build instruction for (\S+)")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Code in it is refused, not run (`weights_only`). Raises `CheckpointError`."""
    try:
        require_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileError as error:
        raise CheckpointError(str(error)) from None
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
    """What keeps an entry from being a tensor with a name and ordinary numbers; nothing where it is one."""
    if not isinstance(name, str):
        return "is no name"
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
        return f"holds {foreign}, which is no tensor, and is not opened, since that could run code in it: {ADVICE}"
    return "not a readable PyTorch weight file: it is cut off, damaged or of another format; copy or download it again"
