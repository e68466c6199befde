"""Models on disk: published layouts and hart's own, whole models and their parts; adapters: `hart.lora`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.checkpoint.loading import (
        LoadedModel,
        load_model,
        load_tokenizer,
        over_scales,
        resolve_model,
        save_model,
        save_tokenizer,
    )
    from hart.checkpoint.storage import fingerprint, load_state, read_safetensors, save_module, write_safetensors

# fmt: off
__all__ = [
    "LoadedModel", "fingerprint", "load_model", "load_state", "load_tokenizer", "over_scales", "read_safetensors",
    "resolve_model", "save_model", "save_module", "save_tokenizer", "write_safetensors",
]
# fmt: on
__getattr__, __dir__ = lazy(__name__)
