"""Prompts -> text features, through one interface whatever the encoder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hart.config import TextEncoderConfig
from hart.errors import HartError
from hart.text_encoder.base import Reading, TextEncoder

__all__ = ["Reading", "TextEncoder", "encoder_module", "load_text_encoder"]


def load_text_encoder(config: TextEncoderConfig, folder: Path | None) -> TextEncoder:
    """The frozen encoder of a configuration, on the CPU in float32.

    folder: the model folder that holds `text_encoder.safetensors` and `word_pieces.json` of a compact encoder;
        other kinds do not need it. Raises `HartError` when the encoder is not there or does not load.
    """
    if config.kind == "qwen2":
        from hart.text_encoder.qwen2 import Qwen2TextEncoder

        return Qwen2TextEncoder.load(config)
    if folder is None:
        raise HartError("a compact text encoder is stored with its model; give the model's folder")
    from hart.text_encoder.compact import CompactTextEncoder

    return CompactTextEncoder.load(config, folder)


def encoder_module(encoder: TextEncoder) -> nn.Module:
    """What holds the weights of an encoder."""
    from hart.text_encoder.qwen2 import Qwen2TextEncoder

    module = encoder.model if isinstance(encoder, Qwen2TextEncoder) else encoder
    assert isinstance(module, nn.Module)
    return module
