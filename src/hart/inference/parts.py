"""The modules that a pipeline draws with: made once, never changed while a call may use them.

What changes a pipeline (another adapter, a text encoder that is loaded late) makes new parts, which share with the old
ones what stays the same.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from hart.checkpoint.lora import merge_lora
from hart.inference.packing import is_packed, pack, unpack_linears
from hart.model import Hart
from hart.text_encoder import TextEncoder
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """What one call draws with. text_encoder: None until the first prompt asks for it."""

    tokenizer: HybridTokenizer
    hart: Hart
    text_encoder: TextEncoder | None = None

    def plain(self) -> Parts:
        """With no layer packed, so that weights can be seen and changed; these parts if none is."""
        if not is_packed(self.hart):
            return self
        hart = shared(self.hart)
        unpack_linears(hart)
        return replace(self, hart=hart)

    def adapted(self, folder: Path, scale: float, model: str) -> Parts:
        """With a LoRA adapter merged into a copy of the weights; see `hart.checkpoint.lora.merge_lora`."""
        hart = copy.deepcopy(self.hart)
        unpack_linears(hart)
        merge_lora(hart, folder, scale, model=model)
        pack(hart)
        return replace(self, hart=hart)


def prepared(tokenizer: HybridTokenizer, hart: Hart, device: torch.device, dtype: torch.dtype) -> Parts:
    """Parts of modules that nobody else uses: moved to the device, frozen, and made ready to draw.

    Transformer and residual diffusion compute in `dtype`. So does the decoder, but for float16, whose range its
    activations may leave: it stays in float32 then, as encoder and quantiser always do.
    """
    hart.to(device, dtype).eval().requires_grad_(False)
    tokenizer.to(device, torch.float32).eval().requires_grad_(False)
    if dtype != torch.float16:
        tokenizer.decoder.to(dtype)
        tokenizer.post_quant_conv.to(dtype)
    # convolutions run on channels-last memory without reordering it
    tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pack(hart)
    return Parts(tokenizer, hart)


def copied(module: AnyModule, device: torch.device, dtype: torch.dtype) -> AnyModule:
    """A frozen copy of a module on a device in a type, without a copy of its own type in between."""
    memo: dict[int, object] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        value = tensor.detach().to(device, dtype if tensor.is_floating_point() else None, copy=True)
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo)


def shared(module: AnyModule) -> AnyModule:
    """A second tree of modules over the same tensors: layers can be replaced in one and not in the other."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())})
