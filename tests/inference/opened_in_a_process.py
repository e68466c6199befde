"""Opens models and generates in a process of its own; prints what was imported for it and how much memory it took.

Argument: a folder with a model whose weights are stored in bfloat16.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from hart import HartPipeline
from hart.checkpoint.folders import HART_FILE

HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "transformers", "peft", "huggingface_hub", "accelerate")


def peak() -> int:
    """Most bytes that the process has held so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    HartPipeline.from_pretrained("emoji", device="cpu")("a red apple", size=128)
    results: dict[str, object] = {"imported": [name for name in HEAVY if name in sys.modules]}
    weights = (Path(sys.argv[1]) / HART_FILE).stat().st_size
    before = peak()
    for dtype, size in (("bfloat16", weights), ("float32", 2 * weights)):
        pipe = HartPipeline.from_pretrained(sys.argv[1], device="cpu", dtype=dtype)
        results[dtype] = (peak() - before) / size
        del pipe
    print(json.dumps(results))  # noqa: T201
