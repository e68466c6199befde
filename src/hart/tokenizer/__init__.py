"""Images <-> token maps: a convolutional autoencoder with a residual quantiser over scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.config import TokenizerConfig
    from hart.tokenizer.autoencoder import Decoder, Encoder
    from hart.tokenizer.codebook_usage import codebook_usage
    from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
    from hart.tokenizer.quantizer import MultiScaleQuantizer

__all__ = ["Decoder", "Encoder", "HybridTokenizer", "MultiScaleQuantizer", "TokenizerConfig", "codebook_usage"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.config": "TokenizerConfig",
        "hart.tokenizer.autoencoder": "Decoder Encoder",
        "hart.tokenizer.codebook_usage": "codebook_usage",
        "hart.tokenizer.hybrid_tokenizer": "HybridTokenizer",
        "hart.tokenizer.quantizer": "MultiScaleQuantizer",
    },
)
