"""PyTorch's compiler for the blocks of a model, of any number of models in one process."""

from __future__ import annotations

from types import FunctionType, MethodType

import torch
from torch import nn


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Compile what lies before and after attention in equal blocks, in place, each variant at its first call.

    Tokens may be of any number, in batches of any size: one row, one token, and more of both are a variant each.
    Attention stays as it is: a cache has too many shapes. What was compiled hangs on a function's code, and from eight
    variants on PyTorch runs that code without its compiler and only warns; so the blocks of a model have a copy of the
    code for themselves, and what cannot be compiled whole is an error of PyTorch's.
    """
    for name in ("before", "after"):
        plain = getattr(type(blocks[0]), name)
        own = FunctionType(plain.__code__.replace(), plain.__globals__, name)
        for block in blocks:
            setattr(block, name, torch.compile(MethodType(own, block), dynamic=True, fullgraph=True))
