"""Compiled blocks: few variants whatever is asked for, and each model its own."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.fx import GraphModule

from hart import HartPipeline
from hart.inference.speed import Speed
from helpers import tiny_text_config


def test_no_call_compiles_what_the_first_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch drops its compiler at the ninth variant of a function, so a process of many models must not get there."""
    variants: Counter[str] = Counter()

    def traced(graph: GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        variants[model] += 1
        return graph.forward

    # the real compiler would take minutes and a C++ one; what it is given is the same
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    picture = Image.new("RGB", (64, 64), "red")
    calls: dict[str, Callable[[HartPipeline], Any]] = {
        "one": lambda pipe: pipe("a cat", seed=0),
        "unguided": lambda pipe: pipe("a cat", seed=0, guidance_scale=0),
        "unguided scales": lambda pipe: pipe(["a cat"] * 3, seed=0, unguided_scales=1),
        "edit": lambda pipe: pipe.edit(picture, Image.new("L", picture.size, 255), "a dog", seed=0),
        "mix": lambda pipe: pipe.mix(["a cat", "a dog"], seed=0),
    }
    for width, cache in ((32, "model"), (48, "int8")):
        model = f"{width} wide"
        config = tiny_text_config(width=width, heads=2)
        plain = HartPipeline.from_config(config, seed=0, device="cpu", speed=Speed(weights="plain", cache=cache))
        pipe = HartPipeline.from_config(config, seed=0, device="cpu", speed=plain.speed.replace(compile=True))
        for name, call in calls.items():
            found, exact = (np.asarray(call(p).images[0], dtype=float) for p in (pipe, plain))
            assert np.abs(found - exact).max() <= 1, name
            assert variants[model] == 6, f"{name}: before and after attention, one row, one token, and more of both"
    hart = pipe.components.hart
    for twin in (copy.deepcopy(hart), pickle.loads(pickle.dumps(hart))):
        assert not {"before", "after"} & vars(twin.transformer.blocks[0]).keys()
