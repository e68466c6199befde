"""Measures what a server costs: its throughput at saturation over the engine's own, first previews, queueing times.

    python benchmarks/serving.py --model emoji --batch-size 4

Starts `hart serve` in its own process and sends requests over loopback, alternating with the same engine in this
process at the same batch size ("offline": sampling and decoding, without encoding PNG), so that noise of the machine
affects both. Prints Markdown with the goals; `--json FILE` writes all figures. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx2
from running import run_program

from hart.benchmark.machine import machine_facts
from hart.commands import require_writable_file
from hart.files import write_json
from hart.pipeline import HartPipeline
from hart.serving.pipeline_engine import PipelineEngine
from hart.serving.schemas import Generation

ROUTE = "/v1/images/generations"
PROMPT = "a picture of number {}"
PER_ROUND = 6
"""Batches per round."""


@contextmanager
def served(model: str, batch_size: int) -> Iterator[str]:
    """Yield the address of a server that is ready."""
    command = [sys.executable, "-m", "hart", "serve", "--model", model, "--port", "0", "--batch-size", str(batch_size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            while httpx2.get(f"{url}/readyz", timeout=60).status_code != 200:
                time.sleep(0.05)
            yield url
        finally:
            server.terminate()


def offline_rate(engine: PipelineEngine, batch_size: int, first: int) -> float:
    """Return images per second of `PER_ROUND` batches in this process."""
    size, began = engine.facts.sizes[0], time.perf_counter()
    for number in range(PER_ROUND):
        seeds = range(first + number * batch_size, first + (number + 1) * batch_size)
        rows = [engine.row(Generation(prompt=prompt(engine, seed), seed=seed), size) for seed in seeds]
        for _, group in groupby(rows, engine.group):
            together = list(group)
            batch = engine.start(together)
            for _ in range(engine.facts.scales):
                batch.advance()
            batch.images(range(len(together)))
    return PER_ROUND * batch_size / (time.perf_counter() - began)


def prompt(engine: PipelineEngine, seed: int) -> str:
    classes = engine.facts.classes
    return PROMPT.format(seed) if classes is None else str(seed % classes)


async def server_rate(url: str, prompts: Sequence[str], clients: int) -> tuple[float, list[float]]:
    """Return images per second when `clients` ask for one image at a time, and each request's seconds in the queue."""
    left, waits = list(enumerate(prompts)), list[float]()

    async def client(http: httpx2.AsyncClient) -> None:
        while left:
            seed, text = left.pop()
            answer = await http.post(ROUTE, json={"prompt": text, "seed": seed})
            answer.raise_for_status()
            found = re.search(r"queue;dur=([\d.]+)", answer.headers["server-timing"])
            assert found is not None
            waits.append(float(found[1]) / 1000)

    async with httpx2.AsyncClient(base_url=url, timeout=600) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        return len(prompts) / (time.perf_counter() - began), waits


def first_preview(url: str, text: str, seed: int) -> tuple[float, float]:
    """Return seconds to the first partial image and to the whole one, for a lone client with one after every scale."""
    began, times = time.perf_counter(), list[float]()
    body = {"prompt": text, "seed": seed, "stream": True}
    with httpx2.stream("POST", f"{url}{ROUTE}", json=body, timeout=600) as answer:
        times += [time.perf_counter() - began for line in answer.iter_lines() if line.startswith("data: ")]
    return times[0], times[-1]


def measured(model: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return all figures; rates are medians over the rounds."""
    with served(model, batch_size) as url:
        engine = PipelineEngine(HartPipeline.from_pretrained(model))
        count, clients = PER_ROUND * batch_size, 2 * batch_size
        offline, online, waits = list[float](), list[float](), list[float]()
        for number in range(rounds + 1):
            offline.append(offline_rate(engine, batch_size, number * count))
            texts = [prompt(engine, number * count + i) for i in range(count)]
            rate, waited = asyncio.run(server_rate(url, texts, clients))
            online.append(rate)
            waits = waited if number <= 1 else waits + waited  # the first round warms up
        previews = [first_preview(url, prompt(engine, seed), seed) for seed in range(3 * rounds)]
    machine = machine_facts(engine.pipe.device)
    late = sorted(waits)[int(0.99 * (len(waits) - 1))]
    return {
        "machine": machine,
        "model": model,
        "batch size": batch_size,
        "clients": clients,
        "offline images/s": statistics.median(offline[1:]),
        "server images/s": statistics.median(online[1:]),
        "server/offline": statistics.median(b / a for a, b in zip(offline[1:], online[1:], strict=True)),
        "first preview s": statistics.median(first for first, _ in previews),
        "whole image s": statistics.median(whole for _, whole in previews),
        "first/whole": statistics.median(first / whole for first, whole in previews),
        "p99 queueing s": late,
        "queueing in batches": late * statistics.median(offline[1:]) / batch_size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.json:
        require_writable_file(options.json)
    figures = measured(options.model, options.batch_size, options.rounds)
    goals = {"server/offline": "at least 0.9", "first/whole": "below 0.33", "queueing in batches": "below 2"}
    for name, value in (figures["machine"] | figures).items():
        if name != "machine":
            shown = f"{value:.3g}" if isinstance(value, float) else value
            goal = f" (goal: {goals[name]})" if name in goals else ""
            sys.stdout.write(f"- {name}: {shown}{goal}\n")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    run_program(main)
