"""PyTorch's compiler for the blocks of a model, for any number of models in one process."""

from __future__ import annotations

from types import FunctionType, MethodType

import torch
from torch import nn


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Compile the parts before and after attention in equal blocks, in place, each variant at its first call.

    Tokens may be of any number, in batches of any size: one row, one token, and more of both are separate variants.
    Attention is not compiled: a cache has too many shapes. Compiled code is attached to a function's code object, and
    from eight variants on PyTorch runs that code uncompiled and only warns; so each model's blocks get their own copy
    of the code, and what cannot be compiled whole is an error from PyTorch.
    """
    for name in ("before", "after"):
        plain = getattr(type(blocks[0]), name)
        own = FunctionType(plain.__code__.replace(), plain.__globals__, name)
        for block in blocks:
            setattr(block, name, torch.compile(MethodType(own, block), dynamic=True, fullgraph=True))
