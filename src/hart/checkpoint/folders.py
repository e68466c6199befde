"""The content of a model's folder. Without PyTorch, so that a command can inspect it before loading anything.

A model of this project:

    config.json                 HartConfig
    tokenizer.safetensors       HybridTokenizer
    hart.safetensors            Hart: transformer and residual diffusion
    text_encoder.safetensors    the compact text encoder, if the model has one
    word_pieces.json            its word pieces, read by the tokenizers library
    known_words.json            words that it reads as they are; others are read as the nearest name; optional
    thesaurus.json.gz           names that others are read as instead; optional
    scorer.safetensors          what best of n compares its images with; optional

The published layouts are described in `hart.checkpoint.released_weights`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from hart.errors import HartError
from hart.files import AnyPath, is_file_name, readable_folder, user_path

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.safetensors"
HART_FILE = "hart.safetensors"
TEXT_ENCODER_FILE = "text_encoder.safetensors"
SCORER_FILE = "scorer.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_FOLDER = "model"
"""Folder in a run's folder with what the run made: a model, a tokenizer or an adapter."""
Layout = Literal["own", "hart", "var"]
"""Layout of a model's folder: this project's, HART's or VAR's."""
SHIPPED_MODELS = Path(__file__).parent.parent / "models"


class CheckpointError(HartError):
    """A checkpoint that is missing, damaged or of another model; the message names the file and the tensors."""


def is_shipped(name: str) -> bool:
    """Return whether a name is that of a model shipped with the package, whatever folders exist."""
    return is_file_name(name) and os.path.exists(SHIPPED_MODELS / name / CONFIG_FILE)  # noqa: PTH110 - or a name of none


def local_folder(name: AnyPath) -> Path | None:
    """Return the folder that a model's name stands for on this machine: a shipped one, or a path; else None.

    Raises `FileError` if it may not be read.
    """
    folder = user_path(name)
    there = os.path.isdir(folder)  # noqa: PTH112 - or a name of none
    # the `Path` of ./emoji is just "emoji", and means a folder if there is one
    if is_shipped(os.fspath(name)) and not (there and isinstance(name, Path)):
        folder, there = SHIPPED_MODELS / name, True
    return readable_folder(folder) if there else None


def model_name(name: str) -> str:
    """Return a model's name that holds in any working directory: folders and files become absolute."""
    path = user_path(name)
    return name if is_shipped(name) or not path.exists() else os.path.abspath(path)  # noqa: PTH100 - links stay as given


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer in this project's layout, alone or in a model."""
    return (folder / CONFIG_FILE).is_file() and (folder / TOKENIZER_FILE).is_file()


def layout_of(folder: Path, *, or_tokenizer: bool = False) -> Layout:
    """Return the layout of the model in a folder, without reading the model.

    or_tokenizer: whether a tokenizer alone, which the caller has looked for, would do too. Raises `CheckpointError` for
    a folder without a model, saying what it holds instead.
    """
    if (folder / CONFIG_FILE).exists() and (folder / HART_FILE).exists():
        return "own"
    if (folder / "llm").is_dir() and (folder / "tokenizer").is_dir():
        return "hart"
    if list(folder.glob("var*.pth")):
        return "var"
    if (folder / ADAPTER_CONFIG).is_file():
        said = (
            "holds a LoRA adapter, not a model: add it to its model (--lora, load_lora), or write both (hart convert)"
        )
    elif has_tokenizer(folder):
        said = f"holds a tokenizer alone: a model has {HART_FILE} besides"
    elif (folder / MODEL_FOLDER).is_dir():
        said = f"no model here; what a training run made is in {folder / MODEL_FOLDER}"
    else:
        alone = f"{CONFIG_FILE} and {TOKENIZER_FILE} (a tokenizer alone), " if or_tokenizer else ""
        own = f"{CONFIG_FILE} and {HART_FILE} (this project)"
        said = f"no model here; expected {alone}{own}, llm/ and tokenizer/ (HART), or vae*.pth and var*.pth (VAR)"
    raise CheckpointError(f"{folder}: {said}")
