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
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hart.errors import HartError
from hart.files import FileError, atomic_write, require_regular

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.safetensors"
HART_FILE = "hart.safetensors"
TEXT_ENCODER_FILE = "text_encoder.safetensors"

WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored as. Others, 8-bit floats too, are quantised by a scale that no layout here has."""
SHOWN_PROBLEMS = 8


class CheckpointError(HartError):
    """A checkpoint that is absent, damaged or of another model; names the file and the tensors."""


def save_module(path: Path, module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Save the parameters and buffers of `module`, optionally cast to `dtype`, as one safetensors file."""
    state = module.state_dict()
    write_safetensors(
        path, {name: value.to("cpu", dtype if value.is_floating_point() else None) for name, value in state.items()}
    )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors on the CPU as one safetensors file."""
    stored = {name: value.detach().contiguous() for name, value in tensors.items()}
    atomic_write(path, lambda file: file.write(save(stored)))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises `CheckpointError` when it is absent, truncated or of another format."""
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileError as error:
        raise CheckpointError(str(error)) from None
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
    """Copy `state` into `module` strictly: what `require_fitting` asks for, all numbers finite, or `CheckpointError`
    and no change.

    A module without memory (on the meta device) gets its memory on the CPU, once the file is known to fit.
    source, name_in_file: how errors call the file, and a tensor in it.
    """
    require_fitting(module, state, source, name_in_file)
    require_finite(state, source, name_in_file)
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        module.to_empty(device="cpu")
    module.load_state_dict(dict(state))


def require_fitting(
    module: nn.Module, state: Mapping[str, Tensor], source: Path | str, name_in_file: Callable[[str], str] = str
) -> None:
    """Raise `CheckpointError` unless `state` has the names, shapes and kinds of numbers of the module's own.

    Floating-point numbers may be any of `WEIGHT_TYPES`.
    """
    expected = module.state_dict()
    problems = [
        *(f"missing {name_in_file(name)}" for name in expected if name not in state),
        *(f"unexpected {name_in_file(name)}" for name in state if name not in expected),
        *(
            f"{name_in_file(name)} is {tuple(state[name].shape)}, the configuration asks for {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ),
        *(
            f"{name_in_file(name)} holds {_short(state[name].dtype)}, not {wanted}"
            for name, value in expected.items()
            if name in state and (wanted := _unmet_type(state[name], value))
        ),
    ]
    if problems:
        hidden = len(problems) - SHOWN_PROBLEMS
        listed = "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {hidden} more" if hidden > 0 else "")
        raise CheckpointError(f"{source}: does not fit the configuration beside it: {listed}")


def require_finite(state: Mapping[str, Tensor], source: Path | str, name_in_file: Callable[[str], str] = str) -> None:
    """Raise `CheckpointError` naming the first tensor with a NaN or an infinite number in it."""
    for name, value in state.items():
        # a finite sum has finite terms; only where it overflowed are they looked at one by one
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            raise CheckpointError(
                f"{source}: {name_in_file(name)} holds numbers that are not finite: the training that wrote it went "
                "astray, or the file is damaged"
            )


def _unmet_type(value: Tensor, expected: Tensor) -> str:
    """What the number type of a tensor should have been; nothing where it is right."""
    if expected.is_floating_point():
        return "" if value.dtype in WEIGHT_TYPES else f"one of {', '.join(map(_short, WEIGHT_TYPES))}"
    return "" if value.dtype == expected.dtype else _short(expected.dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_module(path: Path, module: nn.Module) -> None:
    """`read_safetensors` and `load_state` in one."""
    load_state(module, read_safetensors(path), path)
