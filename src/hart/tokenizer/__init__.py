"""Images to token maps and back: a convolutional autoencoder with a residual quantiser over scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.config import TokenizerConfig
    from hart.tokenizer.autoencoder import Decoder, Encoder
    from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
    from hart.tokenizer.quantizer import MultiScaleQuantizer

__all__ = ["Decoder", "Encoder", "HybridTokenizer", "MultiScaleQuantizer", "TokenizerConfig"]
__getattr__, __dir__ = lazy(__name__)
