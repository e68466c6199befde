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
from hart.files import atomic_write

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.safetensors"
HART_FILE = "hart.safetensors"
TEXT_ENCODER_FILE = "text_encoder.safetensors"


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
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
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
    expected = module.state_dict()
    problems = [
        *(f"missing {name_in_file(name)}" for name in expected if name not in state),
        *(f"unexpected {name_in_file(name)}" for name in state if name not in expected),
        *(
            f"{name_in_file(name)} is {tuple(state[name].shape)}, the configuration asks for {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{source}: does not fit the configuration beside it: {shown}")
    module.load_state_dict(dict(state))


def load_module(path: Path, module: nn.Module) -> None:
    """`read_safetensors` and `load_state` in one."""
    load_state(module, read_safetensors(path), path)
