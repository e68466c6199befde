"""Measures the seconds of a training step on a CPU, and how much of it is not matrix products.

    python benchmarks/training.py projects/emoji/recipes/further.toml
    python benchmarks/training.py recipes/hart-0.7b/256.toml --batch-size 4 --eager

Runs one thread on made-up data, with the recipe's precision and compiler. Products are what PyTorch's profiler counts
as matrix multiplications, in a separate step; overhead is everything else. Times are wall seconds: run nothing beside
it. Compare two versions in one session, with the setting that docs/performance.md recommends for freed memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu_parts.training import SameBatch
from running import run_program
from torch.profiler import ProfilerActivity, profile

from hart.training.config import TransformerRecipe
from hart.training.distributed import DistributedContext
from hart.training.step import Stepper

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
WARM_UP = 2
CPU = torch.device("cpu")


def stepper(options: argparse.Namespace) -> Stepper:
    recipe = TransformerRecipe.read(options.recipe)
    trainer = recipe.trainer.replace(
        batch_size=options.batch_size or recipe.trainer.batch_size,
        accumulate=1,
        device="cpu",
        distributed="none",
        compile=recipe.trainer.compile and not options.eager,
    )
    return Stepper(SameBatch(recipe.replace(trainer=trainer, init_from=""), CPU), trainer, DistributedContext(trainer))


def report(options: argparse.Namespace) -> str:
    """Return the seconds of the fastest step, and the longest parts of a profiled one."""
    torch.set_num_threads(1)
    steps = stepper(options)
    seconds = []
    for step in range(WARM_UP + options.steps):
        start = time.perf_counter()
        steps.step(step)
        seconds.append(time.perf_counter() - start)
    # acc_events: else PyTorch 2.11 warns of what later cycles, of which there are none, would drop
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        steps.step(len(seconds))
    parts = [(event.self_cpu_time_total / 1e6, event.count, event.key) for event in found.key_averages()]
    parts.sort(reverse=True)
    whole = sum(spent for spent, *_ in parts)
    products = sum(spent for spent, _, name in parts if name in PRODUCTS)
    lines = [
        f"step {min(seconds[WARM_UP:]):.3f} s, best of {options.steps}",
        f"profiled {whole:.3f} s: products {products:.3f}, overhead {whole - products:.3f}",
        *(f"{spent:8.3f} s {count:5d} {name[:100]}" for spent, count, name in parts[: options.parts]),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe of the stage transformer")
    parser.add_argument("--batch-size", type=int, help="by default the recipe's")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after two to warm up")
    parser.add_argument("--eager", action="store_true", help="without the compiler")
    parser.add_argument("--parts", type=int, default=20, help="how many parts of a step to list")
    sys.stdout.write(report(parser.parse_args(arguments)))


if __name__ == "__main__":
    run_program(main)
