"""Prompts to text features, through one interface for every encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.config import TextEncoderConfig
    from hart.text_encoder.base import RandomTextFeatures, Reading, TextEncoder
    from hart.text_encoder.compact import SPECIAL_PIECES, CompactTextEncoder, build_tokenizer
    from hart.text_encoder.known_words import KnownWords, Thesaurus
    from hart.text_encoder.loading import (
        STORED_FOLDER,
        encoder_module,
        find_text_encoder,
        load_text_encoder,
        require_text_encoder,
        save_text_encoder,
        store_text_encoder,
        text_encoder_config,
        vocabulary_digest,
    )

# fmt: off
__all__ = [
    "SPECIAL_PIECES", "STORED_FOLDER", "CompactTextEncoder", "KnownWords", "RandomTextFeatures", "Reading",
    "TextEncoder", "TextEncoderConfig", "Thesaurus", "build_tokenizer", "encoder_module", "find_text_encoder",
    "load_text_encoder", "require_text_encoder", "save_text_encoder", "store_text_encoder", "text_encoder_config",
    "vocabulary_digest",
]
# fmt: on
__getattr__, __dir__ = lazy(__name__)
