"""Whole models as folders that open and draw alone: in the project's layout, text encoder included, adapters merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from hart.checkpoint.loading import load_model, resolve_model, save_model
from hart.checkpoint.lora import has_lora, merge_lora
from hart.checkpoint.storage import CONFIG_FILE, HART_FILE, TEXT_ENCODER_FILE, TOKENIZER_FILE
from hart.config import HartConfig
from hart.errors import HartError
from hart.files import user_path
from hart.model import Hart
from hart.text_encoder import STORED_FOLDER, TextEncoder, store_text_encoder
from hart.text_encoder.compact import PIECES_FILE
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

FILES = (CONFIG_FILE, TOKENIZER_FILE, HART_FILE, TEXT_ENCODER_FILE, PIECES_FILE, STORED_FOLDER)


def convert_model(
    source: str,
    destination: Path,
    *,
    loras: Sequence[str | Path] = (),
    lora_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the model `source` (see `resolve_model`) to a folder, adapters merged into its weights.

    loras, lora_scale: folders of adapters, and the strength of each; see `hart.checkpoint.lora.merge_lora`.
    dtype: how weights are stored; a Qwen2 text encoder is copied as it is, where it is in a folder. Raises `HartError`
    for what cannot be read or does not fit, and where `destination` holds a model or parts of one already.
    """
    folder = resolve_model(source)
    require_new_model(destination, folder)
    # adapters are added in float32, whatever is stored
    model = load_model(folder, torch.float32 if loras else dtype)
    for lora in loras:
        merge_lora(model.hart, user_path(lora), lora_scale, model=source)
    store_model(destination, model.config, model.tokenizer, model.hart, None, folder, dtype)


def store_model(
    destination: Path,
    config: HartConfig,
    tokenizer: HybridTokenizer,
    hart: Hart,
    text_encoder: TextEncoder | None,
    folder: Path | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the parts of a model; the configuration last, so that an unfinished folder is not taken for a model.

    text_encoder, folder: as in `store_text_encoder`. dtype: how weights are stored, None as they are.
    Raises `HartError` where the folder holds a model, and for adapters that are not merged.
    """
    require_new_model(destination, folder)
    if has_lora(hart):
        raise HartError("the model has LoRA adapters beside its weights: keep them by save_lora, or load them merged")
    try:
        described = store_text_encoder(config.text_encoder, text_encoder, folder, destination, dtype)
        config = config.replace(text_encoder=described)
        save_model(destination, config, tokenizer, hart, dtype, overwrite=False)
    except FileExistsError as error:
        raise HartError(f"{error.filename}: another program wrote it meanwhile: choose another folder") from None


def require_new_model(destination: Path, source: Path | None) -> None:
    """Raise `HartError` where writing a model would write over anything, or into the folder that it is read from."""
    if source is not None and destination.exists() and destination.samefile(source):
        raise HartError(f"{destination}: is the model's own folder: choose another one")
    there = [name for name in FILES if os.path.lexists(destination / name)]
    if CONFIG_FILE in there:
        raise HartError(f"{destination}: already holds a model: choose another folder")
    if there:
        raise HartError(f"{destination}: already holds {', '.join(there)}: choose another folder, or remove them")
