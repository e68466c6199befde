"""Time to generate one image on a CPU, against the time that its matrix products alone would take.

    python benchmarks/generate_cpu.py --model hart-0.7b-256 --random-weights

The floor is the FLOPs that `hart.inference.cost` counts (what `hart info` prints) over the fastest matrix-product rate
measured in the same run, before, between and after the timed images. It prints Markdown: the machine, the rates,
floor, latency and ratio, and the same by part. `--json FILE` writes all figures.

Text features are random, and neither count nor timing includes the text encoder; both include guidance and the decoder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_parts.machine import processor_name
from timing import SEED, GenerationTimer, host_clock, model_products, product_rate

from hart.checkpoint.loading import load_config, load_model, resolve_model
from hart.devices import DTYPES, dtype_name
from hart.pipeline import HartPipeline
from hart.presets import PRESETS
from hart.text_encoder.base import RandomTextFeatures

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def rates(timer: GenerationTimer, squares: Sequence[int]) -> dict[str, float]:
    """FLOP/s of matrix products: large squares, and this model's layers at its last scale."""
    shapes = [*((size, size, size) for size in squares), *model_products(timer)]
    return {"x".join(map(str, shape)): product_rate(*shape, timer.pipe.dtype, timer.clock) for shape in shapes}


def machine() -> dict[str, Any]:
    """What a result must state about hardware and software."""
    features = torch.cpu.get_capabilities()
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "AMX": bool(features.get("amx_tile", False)),
        "AVX-512": bool(features.get("avx512_f", False)),
        "AVX-512 bf16": bool(features.get("avx512_bf16", False)),
        "load average at the start": round(os.getloadavg()[0], 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def load(arguments: argparse.Namespace) -> HartPipeline:
    if arguments.random_weights:
        return HartPipeline.from_config(load_config(arguments.model), device="cpu", dtype=arguments.dtype)
    model = load_model(resolve_model(arguments.model))
    text = model.config.transformer.text
    return HartPipeline(
        model.config,
        model.tokenizer,
        model.hart,
        device=torch.device("cpu"),
        dtype=DTYPES[arguments.dtype],
        text_encoder=None if text is None else RandomTextFeatures(text, SEED),
    )


def measure(benchmark: GenerationTimer, repeats: int, squares: Sequence[int]) -> dict[str, Any]:
    """Generate `repeats` images, with the rates measured before, between and after them. Warm up first."""
    environment = machine()
    found, images = [rates(benchmark, squares)], []
    for _ in range(repeats):
        images.append(benchmark.generate())
        found.append(rates(benchmark, squares))
    fastest = {shape: max(rate[shape] for rate in found) for shape in found[0]}
    rate = max(fastest.values())
    best = min(images, key=lambda image: image.seconds)
    floor = benchmark.cost.total_flops / rate
    flops = benchmark.part_flops()
    return {
        "dtype": dtype_name(benchmark.pipe.dtype),
        "machine": environment,
        "rates_gflops": {shape: value / 1e9 for shape, value in fastest.items()},
        "gflop": benchmark.cost.total_flops / 1e9,
        "floor_s": floor,
        "latencies_s": [image.seconds for image in images],
        "ratio_best": best.seconds / floor,
        "ratio_median": statistics.median(image.seconds for image in images) / floor,
        "parts": {
            name: {"gflop": flops[name] / 1e9, "floor_s": flops[name] / rate, "best_run_s": seconds}
            for name, seconds in best.parts.items()
        },
    }


def report(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    latencies = result["latencies_s"]
    lines = [
        f"# {result['model']}, {result['weights']} weights, {result['dtype']}, batch 1",
        "",
        *(f"- {name}: {value}" for name, value in result["machine"].items()),
        f"- clock: {result['clock']}",
        "",
        "| matrix product (rows x inputs x outputs) | GFLOP/s |",
        "|---|---|",
        *(f"| {shape} | {rate:.0f} |" for shape, rate in result["rates_gflops"].items()),
        "",
        f"- counted: {result['gflop']:.0f} GFLOP (text encoder left out, guidance and decoder inside)",
        f"- floor: {result['floor_s']:.2f} s at the fastest rate",
        f"- latency: best {min(latencies):.2f} s, median {statistics.median(latencies):.2f} s of {len(latencies)}",
        f"- ratio: best {result['ratio_best']:.2f}, median {result['ratio_median']:.2f}",
        "",
        "| part (best run) | GFLOP | floor s | measured s | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, part in result["parts"].items():
        ratio = f"{part['best_run_s'] / part['floor_s']:.2f}" if part["floor_s"] else "-"
        lines.append(f"| {name} | {part['gflop']:.1f} | {part['floor_s']:.3f} | {part['best_run_s']:.3f} | {ratio} |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        required=True,
        help=f"folder, hub id or shipped name; with --random-weights a preset ({', '.join(PRESETS)}) or a config.json",
    )
    parser.add_argument("--random-weights", action="store_true", help="nothing is downloaded")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--repeats", type=int, default=3, help="timed images, after one that is not timed")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: processor time, for one thread on a machine that is busy with other work",
    )
    parser.add_argument(
        "--squares", type=int, nargs="+", default=[2048, 4096], help="sizes of the square products timed for the rate"
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    parsed = parser.parse_args(arguments)
    if parsed.repeats < 1:
        parser.error("--repeats must be at least 1")
    if parsed.clock == "cpu" and parsed.threads != 1:
        parser.error("--clock cpu needs --threads 1: processor time adds up over threads")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(arguments)
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    named = {
        "model": parsed.model,
        "weights": "random" if parsed.random_weights else "loaded",
        "clock": parsed.clock,
    }
    benchmark = GenerationTimer(load(parsed), host_clock(CLOCKS[parsed.clock]))
    benchmark.generate()
    result = named | measure(benchmark, parsed.repeats, parsed.squares)
    sys.stdout.write(report(result) + "\n")
    if parsed.json:
        parsed.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
