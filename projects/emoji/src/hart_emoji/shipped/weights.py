"""Averaged weights in files of a bounded size, and whole models of them again.

    OUT/weights-1-of-3.safetensors    tensors named tokenizer.* and hart.*, in float16
    OUT/model.json                    the configuration; "hart" is null while only the tokenizer is trained

All files of one writing have its number in their names' metadata: a mixture of two is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hart.checkpoint.loading import resolve_model, save_model
from hart.checkpoint.starting import save_tokenizer
from hart.checkpoint.storage import load_state
from hart.config import HartConfig, TokenizerConfig
from hart.errors import HartError
from hart.files import atomic_write
from hart.model import Hart
from hart.text_encoder.compact import CompactTextEncoder
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

LARGEST_FILE = 15 * 2**20
"""Bytes, safely below the 16 MiB that some machines give back."""
MODEL_FILE = "model.json"
NAME = re.compile(r"weights-(\d+)-of-(\d+)\.safetensors")


def export(out: Path, writing: str, config: Mapping[str, Any], **modules: nn.Module) -> list[Path]:
    """Write modules as weight files, all of them or the ones of before. `writing` tells this writing from others."""
    tensors = {
        f"{kind}.{name}": value.detach().to("cpu", torch.float16 if value.is_floating_point() else None).contiguous()
        for kind, module in modules.items()
        for name, value in module.state_dict().items()
    }
    parts = bounded(tensors, LARGEST_FILE)
    names = [f"weights-{i}-of-{len(parts)}.safetensors" for i in range(1, len(parts) + 1)]
    out.mkdir(parents=True, exist_ok=True)
    for name, part in zip(names, parts, strict=True):
        (out / f"{name}.partial").write_bytes(save(part, metadata={"writing": writing}))
    text = json.dumps({"writing": writing, **config}, indent=1)
    before = [path for path in out.iterdir() if NAME.fullmatch(path.name) and path.name not in names]
    for name in names:
        (out / f"{name}.partial").replace(out / name)
    atomic_write(out / MODEL_FILE, lambda file: file.write(text.encode()))
    for path in before:
        path.unlink()
    return [out / name for name in names]


def bounded(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Tensors in groups of at most `most` bytes, in their order. Raises `HartError` for one that is larger."""
    parts: list[dict[str, Tensor]] = [{}]
    room = most
    for name, tensor in tensors.items():
        if tensor.nbytes > most:
            raise HartError(f"{name} takes {tensor.nbytes} bytes, a file takes {most}")
        if tensor.nbytes > room:
            parts.append({})
            room = most
        parts[-1][name] = tensor
        room -= tensor.nbytes
    return parts


def read_export(out: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and all tensors. Raises `HartError` where files are missing or of two writings."""
    try:
        config = json.loads((out / MODEL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HartError(f"{out / MODEL_FILE}: cannot be read: {error}") from None
    found = {int(match[1]): match for path in out.iterdir() if (match := NAME.fullmatch(path.name))}
    if not found or sorted(found) != list(range(1, int(next(iter(found.values()))[2]) + 1)):
        there = ", ".join(match[0] for match in found.values()) or "none"
        raise HartError(f"{out}: weight files are missing: there are {there}")
    tensors: dict[str, Tensor] = {}
    for match in found.values():
        with safe_open(out / match[0], framework="pt") as file:
            if (file.metadata() or {}).get("writing") != config["writing"]:
                raise HartError(f"{out / match[0]} and {MODEL_FILE} are of two writings: copy all files again")
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return config, tensors


def join(out: Path, folder: Path) -> Path:
    """Write the model (or, where no transformer was trained yet, the tokenizer) of an export as a model's folder."""
    config, tensors = read_export(out)

    def filled(kind: str, module: nn.Module) -> Any:
        prefix = f"{kind}."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        load_state(module, own, out)
        return module.eval()

    tokenizer = filled("tokenizer", HybridTokenizer(TokenizerConfig.from_dict(config["tokenizer"])))
    if config["hart"] is None:
        save_tokenizer(folder, tokenizer)
        return folder
    whole = HartConfig.from_dict(config["hart"])
    encoder = whole.text_encoder
    if encoder is not None and encoder.kind == "compact":
        CompactTextEncoder.load(encoder, resolve_model(config["text_encoder"])).save(folder)
    save_model(folder, whole, tokenizer, filled("hart", Hart(whole)), torch.float16)
    return folder
