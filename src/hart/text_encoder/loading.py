"""Text encoders by name: finding, loading, and storing them with a model or alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hart.checkpoint.folders import CONFIG_FILE, layout_of
from hart.checkpoint.hub import folder_or_id, require_repository
from hart.checkpoint.loading import resolve_model
from hart.config import ConfigError, HartConfig, TextConditioning, TextEncoderConfig
from hart.errors import HartError
from hart.files import AnyPath, FileError, read_json, user_path, write_text
from hart.text_encoder.base import RandomTextFeatures, TextEncoder
from hart.text_encoder.compact import CompactTextEncoder
from hart.text_encoder.qwen2 import Qwen2TextEncoder

STORED_FOLDER = "text_encoder"
"""Folder of a language model inside the folder of the model that uses it."""
TEXT_ENCODER_CONFIG = "text_encoder.json"
"""Configuration of a text encoder that is stored alone."""


def load_text_encoder(
    config: TextEncoderConfig, folder: AnyPath | None, dtype: torch.dtype = torch.float32
) -> TextEncoder:
    """Load the frozen encoder of a configuration, on the CPU in `dtype`.

    folder: the model's. It holds `text_encoder.safetensors` and `word_pieces.json` of a compact encoder, and may hold
        the folder of a Qwen2. Raises `HartError` if the encoder is missing or does not load.
    """
    folder = None if folder is None else user_path(folder)
    if config.kind == "random":
        return RandomTextFeatures(TextConditioning(config.output_width, config.tokens), config.seed)
    if config.kind == "qwen2":
        # no command option names the text encoder of a model
        instead = "" if folder is None else f"put its files into {folder / config.source}"
        return Qwen2TextEncoder.load(config, _language_model(config, folder) or config.source, dtype, instead)
    if folder is None:
        raise HartError("a compact text encoder is stored with its model: give the model's folder")
    return CompactTextEncoder.load(config, folder).to(dtype=dtype)


def store_text_encoder(
    config: TextEncoderConfig | None,
    encoder: TextEncoder | None,
    folder: Path | None,
    destination: Path,
    dtype: torch.dtype | None = None,
    *,
    adapted: bool = False,
) -> TextEncoderConfig | None:
    """Write an encoder into the folder of a model; return its configuration for the model's own.

    encoder: None means the one that `config` describes, with `folder` as in `load_text_encoder`.
    dtype: how a compact encoder is stored; None as it is. A Qwen2 in a folder is copied as it is, one from the hub is
        still named by its id. adapted: as in `CompactTextEncoder.save`. Raises `HartError` for any other kind of
        encoder.
    """
    if encoder is not None and not isinstance(encoder, RandomTextFeatures | Qwen2TextEncoder | CompactTextEncoder):
        raise HartError(f"a text encoder of the kind {type(encoder).__name__} cannot be stored with a model")
    config = config if encoder is None else encoder.config
    if config is None or config.kind == "random":
        return config
    if config.kind == "qwen2":
        source = _language_model(config, folder)
        if source is None:
            return config
        (destination / STORED_FOLDER).mkdir(parents=True)
        for file in sorted(source.iterdir()):
            if file.is_file():
                shutil.copyfile(file, destination / STORED_FOLDER / file.name)
        return config.replace(source=STORED_FOLDER)
    encoder = load_text_encoder(config, folder) if encoder is None else encoder
    assert isinstance(encoder, CompactTextEncoder), "of the kind that is left"
    encoder.save(destination, dtype, adapted=adapted)
    return config


def encoder_module(encoder: TextEncoder) -> nn.Module:
    """Return the module with the weights of an encoder. Raises `HartError` for random features, which have none."""
    module = encoder.model if isinstance(encoder, Qwen2TextEncoder) else encoder
    if not isinstance(module, nn.Module):
        raise HartError("random text features have no weights: give a text encoder that was trained")
    return module


def vocabulary_digest(encoder: TextEncoder) -> str:
    """Return SHA-256 in hex of what else decides how captions are read: word pieces, and what words are read as."""
    if not isinstance(encoder, CompactTextEncoder | Qwen2TextEncoder):
        return ""
    parts: list[Any] = [sorted(encoder.tokenizer.get_vocab().items())]
    if isinstance(encoder, CompactTextEncoder) and encoder.reader is not None:
        known, thesaurus = encoder.reader.known, encoder.reader.thesaurus
        parts += [sorted(known.words), known.names]
        if thesaurus is not None:
            parts += [sorted(thesaurus.things.items()), sorted(thesaurus.alone.items()), sorted(thesaurus.left)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _language_model(config: TextEncoderConfig, folder: Path | None) -> Path | None:
    """Return the folder of a Qwen2, inside that of its model or elsewhere; None for one from the hub."""
    named = user_path(config.source)
    places = [named] if folder is None else [folder / config.source, named]
    return next((place for place in places if place.is_dir()), None)


def save_text_encoder(folder: AnyPath, encoder: CompactTextEncoder) -> None:
    """Write a compact encoder alone, in float16, with its configuration, for `find_text_encoder`."""
    folder = user_path(folder)
    encoder.save(folder)
    write_text(folder / TEXT_ENCODER_CONFIG, encoder.config.to_json())


def text_encoder_config(folder: AnyPath) -> TextEncoderConfig:
    """Return the configuration of the text encoder in `folder`, alone or in a whole model. Raises `HartError`."""
    folder = user_path(folder)
    if (folder / TEXT_ENCODER_CONFIG).exists():
        return TextEncoderConfig.load(folder / TEXT_ENCODER_CONFIG)
    if layout_of(folder) != "own":
        raise ConfigError(f"{folder}: a model in this layout has its text encoder elsewhere: give that of a Qwen2")
    config = HartConfig.load(folder / CONFIG_FILE).text_encoder
    if config is None:
        raise ConfigError(f"{folder}: this model names no text encoder")
    return config


def find_text_encoder(name: str, *, tokens: int, instruction: bool) -> tuple[TextEncoderConfig, Path | None]:
    """Return the configuration of the text encoder `name`, and the folder of a compact one.

    name: folder of `save_text_encoder`, or a model (folder or shipped), which have their own settings; or folder or hub
        id of a Qwen2 language model. tokens, instruction: settings of the latter.
    Raises `HartError` for an unknown name, `ConfigError` if the model's encoder wants the other `instruction`.
    """
    folder = user_path(name)
    if not folder.is_dir() and "/" not in name:
        folder = resolve_model(name)
    if not folder.is_dir():
        return TextEncoderConfig("qwen2", tokens=tokens, source=name, instruction=instruction), None
    if _is_language_model(folder):
        return TextEncoderConfig("qwen2", tokens=tokens, source=str(folder.resolve()), instruction=instruction), None
    config = text_encoder_config(folder)
    if config.instruction != instruction:
        raise ConfigError(
            f"text_encoder {name}: it reads captions {'with' if config.instruction else 'without'} the instruction: "
            f"set text_instruction = {'true' if config.instruction else 'false'}"
        )
    return config, folder


def require_text_encoder(name: str, *, tokens: int, instruction: bool) -> tuple[TextEncoderConfig, Path | None]:
    """Like `find_text_encoder`, but also raise for a language model that is neither a folder nor on the hub. Loads
    nothing."""
    config, folder = find_text_encoder(name, tokens=tokens, instruction=instruction)
    if config.kind == "qwen2" and _language_model(config, folder) is None:
        role = "text encoder"
        require_repository(folder_or_id(config.source, role), role)
    return config, folder


def _is_language_model(folder: Path) -> bool:
    """Return whether transformers wrote the configuration in a folder."""
    try:
        return "model_type" in read_json(folder / CONFIG_FILE)
    except FileError:
        return False
