"""Generates and compares whatever a processor could get wrong, in a process of its own.

PyTorch and oneDNN ask the processor, and the environment that may hold them back, once a process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hart import HartPipeline
from hart.checkpoint.verification import RecordedNoise, verify
from hart.generation.next_scale import NextScaleGenerator
from hart.inference.packing import is_packed, packing_refusal
from helpers import random_context, tiny_class_config, tiny_text_config

GOLDEN = Path(__file__).parent / "golden"
WIDE = tiny_text_config(width=512, heads=4, depth=1)
"""Layers of it are packed where the processor can; such of the shipped model are too small."""
RANDOM_MODELS = {
    "text, float32": WIDE,
    "text, bfloat16": WIDE,
    "text, float16": WIDE,
    "modulated text, bfloat16": tiny_text_config(width=512, heads=4, depth=1, modulation="linear", qk_norm=True),
    "class, bfloat16": tiny_class_config(width=512, heads=4, depth=1, modulation="shared"),
}


def failed_quantities() -> list[str]:
    """Recorded quantities of the golden cases that differ by more than their tolerance."""
    cases = sorted(path.parent for path in GOLDEN.glob("*/golden.safetensors"))
    return [f"{case.name} {c.name} {c.difference:.1e}" for case in cases for c in verify(case) if not c.passed]


def colours() -> dict[str, list[float]]:
    """Mean colours of images by the shipped model, which knows what is red and what is blue."""
    found = {}
    for prompt, dtype in (("a red heart", "float32"), ("a blue heart", "bfloat16")):
        pipe = HartPipeline.from_pretrained("emoji", device="cpu", dtype=dtype)
        image = torch.tensor(list(pipe(prompt, size=128).images[0].tobytes()), dtype=torch.float32).view(-1, 3)
        found[f"{prompt}, {dtype}"] = image[image.amin(1) < 220].mean(0).tolist()
    return found


def random_images() -> dict[str, bool]:
    """Whether images of random models come, packed exactly where the processor can, and with plain layers."""
    generated = {}
    for name, config in RANDOM_MODELS.items():
        pipe = HartPipeline.from_config(config, device="cpu", dtype=name.rsplit(" ", 1)[1])
        packs = is_packed(pipe.components.hart) == (packing_refusal(pipe.dtype) is None)
        prompt = 1 if pipe.num_classes is not None else "a cat"
        images = pipe(prompt).images
        pipe.hart.eval()  # plain from here on
        images += pipe(prompt, num_images_per_prompt=2, batch_size=2).images
        generated[name] = packs and len(images) == 3
    return generated


def plain_and_packed_logits() -> dict[str, float]:
    """Largest difference between the first logits of a packed model and of the same one with plain layers."""
    differences = {}
    context = random_context(WIDE, 1)
    for dtype in ("float32", "bfloat16"):
        pipe, found = HartPipeline.from_config(WIDE, device="cpu", dtype=dtype), []
        for hart in (pipe.components.hart, pipe.hart):
            noise = RecordedNoise(torch.zeros(16, 4), 1, torch.device("cpu"))
            states = NextScaleGenerator(hart, pipe.tokenizer.quantizer, WIDE.sampling, noise).states(context)
            found.append(next(states).steps[0].logits)
        differences[dtype] = float((found[0] - found[1]).abs().max() / found[1].abs().max())
    return differences


def everything() -> dict[str, Any]:
    return {
        "colours": colours(),
        "images": random_images(),
        "plain and packed": plain_and_packed_logits(),
    }


def on_processor(held_back: Mapping[str, str], results: Any) -> None:
    """Put everything of a processor that the environment holds back; for a process that has computed nothing yet."""
    os.environ |= held_back
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    results.put({"capability": capability, "failed quantities": failed_quantities()} | everything())
