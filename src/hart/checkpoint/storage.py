"""Weights on disk: safetensors written atomically, read strictly.

A model of this project is a folder:

    config.json                 HartConfig
    tokenizer.safetensors       HybridTokenizer
    hart.safetensors            Hart: transformer and residual diffusion
    text_encoder.safetensors    the compact text encoder, where the model has one
    word_pieces.json            its word pieces, read by the tokenizers library
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hart.errors import HartError
from hart.files import atomic_write

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.safetensors"
HART_FILE = "hart.safetensors"
TEXT_ENCODER_FILE = "text_encoder.safetensors"


TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls the types of tensors."""


class CheckpointError(HartError):
    """A checkpoint that is absent, damaged or of another model; names the file and the tensors."""


def save_module(path: Path, module: nn.Module, dtype: torch.dtype | None = None, *, overwrite: bool = True) -> None:
    """Save the parameters and buffers of `module`, optionally cast to `dtype`, as one safetensors file.

    overwrite: see `hart.files.atomic_write`.
    """
    state = module.state_dict()
    write_safetensors(
        path,
        {name: value.to("cpu", dtype if value.is_floating_point() else None) for name, value in state.items()},
        overwrite=overwrite,
    )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], *, overwrite: bool = True) -> None:
    """Write tensors on the CPU as one safetensors file, tensor by tensor: the library's own writer copies all first."""
    stored = {name: value.detach().contiguous() for name, value in tensors.items()}
    # the widest types first, so that every tensor is aligned
    order = sorted(stored, key=lambda name: (-stored[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        value, begin = stored[name], end
        end += value.nbytes
        header[name] = {"dtype": TYPE_NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(stored[name].flatten().view(torch.uint8).numpy().data)

    atomic_write(path, write, overwrite=overwrite)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises `CheckpointError` when it is absent, truncated or of another format."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose tensors are read one by one. Raises as `read_safetensors`."""
    try:
        try:
            # a mapped file counts as memory of the process for as long as it is open
            opened = safe_open(path, framework="pt", backend="pread")
        except TypeError:  # safetensors before 0.8 maps all files
            opened = safe_open(path, framework="pt")
        with opened as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); copy or download it again") from None


def fingerprint(module: nn.Module) -> str:
    """What tells weights from others: SHA-256 over names, shapes and float32 values, in hex.

    The same for one model on any device, in any file; weights that were stored in a narrower type are other weights.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        stored = value.detach().to("cpu", torch.float32 if value.is_floating_point() else None).contiguous()
        digest.update(f"{name} {tuple(stored.shape)}".encode())
        digest.update(stored.numpy())
    return digest.hexdigest()


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], source: Path | str, name_in_file: Callable[[str], str] = str
) -> None:
    """Copy `state` into `module` strictly: same names, same shapes, or `CheckpointError` and no change.

    source, name_in_file: how errors call the file, and a tensor in it.
    """
    shapes = {name: value.shape for name, value in state.items()}
    _require_same_shapes(module, shapes, source, name_in_file)
    module.load_state_dict(dict(state))


def load_module(path: Path, module: nn.Module) -> None:
    """`read_safetensors` and `load_state` in one."""
    load_state(module, read_safetensors(path), path)


def fill_state(
    module: nn.Module,
    state: MutableMapping[str, Tensor],
    dtype: torch.dtype,
    source: Path | str,
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Give a module that was built `without_memory` its weights, in `dtype`; errors as of `load_state`.

    Takes the tensors out of `state` one by one: they become the module's own where their type is the same, and else
    are freed, so that weights are held once.
    """
    shapes = {name: value.shape for name, value in state.items()}
    _require_same_shapes(module, shapes, source, name_in_file)
    taken: set[int] = set()
    for name in shapes:
        value = state.pop(name)
        # some formats store one tensor under two names, or a part of a larger one
        alone = value.untyped_storage().nbytes() == value.nbytes and value.data_ptr() not in taken
        taken.add(value.data_ptr())
        _put(module, name, value if alone else value.clone(), dtype)


def fill_module(module: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """`fill_state` from a file, which is read tensor by tensor."""
    with _opened(path) as file:
        names = list(file.keys())
        shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
        _require_same_shapes(module, shapes, path, str)
        for name in names:
            _put(module, name, file.get_tensor(name), dtype)


def _require_same_shapes(
    module: nn.Module, shapes: Mapping[str, torch.Size], source: Path | str, name_in_file: Callable[[str], str]
) -> None:
    expected = module.state_dict()
    problems = [
        *(f"missing {name_in_file(name)}" for name in expected if name not in shapes),
        *(f"unexpected {name_in_file(name)}" for name in shapes if name not in expected),
        *(
            f"{name_in_file(name)} is {tuple(shapes[name])}, the configuration asks for {tuple(value.shape)}"
            for name, value in expected.items()
            if name in shapes and shapes[name] != value.shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{source}: does not fit the configuration beside it: {shown}")


def _put(module: nn.Module, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Make `value`, which nobody else writes to, the parameter or buffer `name` of a module."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    place: Tensor = getattr(owner, leaf)
    value = value.detach().to(dtype if place.is_floating_point() else place.dtype).contiguous()
    is_parameter = isinstance(place, nn.Parameter)
    setattr(owner, leaf, nn.Parameter(value, place.requires_grad) if is_parameter else value)
