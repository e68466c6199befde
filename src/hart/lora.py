"""LoRA adapters of the transformer, from training to use; `HartPipeline.load_lora` merges one into a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.checkpoint.lora import add_lora, has_lora, merge_lora, save_lora

__all__ = ["add_lora", "has_lora", "merge_lora", "save_lora"]
__getattr__, __dir__ = lazy(__name__)
