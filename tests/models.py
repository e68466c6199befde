"""Whole tiny models on disk, as a user would have them."""

from __future__ import annotations

import string
from pathlib import Path

import torch

from hart.checkpoint.loading import save_model
from hart.config import TextEncoderConfig
from hart.text_encoder.compact import SPECIAL_PIECES, CompactTextEncoder, build_tokenizer
from helpers import TEXT_TOKENS, TEXT_WIDTH, tiny_class_config, tiny_model, tiny_text_config

LETTERS = string.ascii_lowercase
PIECES = [*SPECIAL_PIECES, *LETTERS, *("##" + letter for letter in LETTERS)]


def save_tiny_text_model(folder: Path) -> Path:
    """A hybrid text model with its own compact text encoder."""
    encoder = TextEncoderConfig(
        kind="compact",
        tokens=TEXT_TOKENS,
        vocabulary_size=len(PIECES),
        embedding_width=8,
        width=16,
        depth=1,
        heads=2,
        output_width=TEXT_WIDTH,
    )
    torch.manual_seed(0)
    CompactTextEncoder(encoder, build_tokenizer(PIECES, TEXT_TOKENS)).save(folder, torch.float32)
    config = tiny_text_config().replace(text_encoder=encoder)
    save_model(folder, config, *tiny_model(config))
    return folder


def save_tiny_class_model(folder: Path) -> Path:
    """A plain VAR model."""
    config = tiny_class_config()
    save_model(folder, config, *tiny_model(config))
    return folder
