"""The headline's programs: a twin that does what it is counted for, tables that follow from their figures."""

from __future__ import annotations

import dataclasses
import itertools
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hart.benchmark.machine import host_clock
from helpers import tiny_class_config, tiny_text_config


def setting() -> Any:
    """With a clock by which every call takes a second."""
    ticks = itertools.count()
    clock = host_clock(lambda: float(next(ticks)))
    return import_module("headline_parts.measuring").Setting(torch.device("cpu"), torch.float32, clock, 0.0, 1)


@torch.no_grad()
def test_mar_is_counted_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    mar, measuring = import_module("headline_parts.mar"), import_module("headline_parts.measuring")
    for name, value in {"TOKENS": 16, "STEPS": 5, "DIFFUSION_STEPS": 2}.items():
        monkeypatch.setattr(mar, name, value)
    sizes = mar.step_sizes()
    assert len(sizes) == 5 and sum(sizes) == 16 and min(sizes) >= 1
    network = measuring.filled(mar.Mar(mar.Sizes(8, 1, 2, 12, 1)), setting())
    tokens, classes = torch.zeros(2, 0, mar.CHANNELS), torch.zeros(2, dtype=torch.long)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for count in sizes:
            tokens = torch.cat([tokens, network.step(tokens, classes, count, mar.DIFFUSION_STEPS)], dim=1)
    assert tokens.shape == (2, mar.TOKENS, mar.CHANNELS) and tokens.isfinite().all()
    assert measuring._mar_macs(network.to("meta")).total == counter.get_total_flops() // 2


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["text", "class"])
def test_ours_are_counted_without_memory(config: object, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = import_module("headline_parts.measuring")
    monkeypatch.setattr(measuring, "_text_macs", lambda *_: 7)
    row = measuring._counted_ours(config)
    assert row["network"] > row["plain"] > row["attention"] > 0
    assert row["decoder"] > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_counts_as_often_as_there_are_steps(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mar, measuring = import_module("headline_parts.mar"), import_module("headline_parts.measuring")
    monkeypatch.setattr(mar, "DIFFUSION_STEPS", 2)
    rival = dataclasses.replace(
        measuring.RIVALS["MAR-B"],
        steps=2,
        network=lambda _: mar.Mar(mar.Sizes(8, 1, 2, 12, 1)),
        decoder=lambda: torch.nn.Conv2d(mar.CHANNELS, 3, 1),
    )
    monkeypatch.setattr(measuring, "RIVALS", {"tiny": rival})
    monkeypatch.setattr(measuring, "OURS", {"our": {8: tiny_text_config}})
    row = measuring.measured("tiny", 256, batch, setting())
    assert row["latency_s"] == 2 * row["step_s"] + row["decoder_s"] > 0
    assert row["decoder_s"] == batch  # seconds of one image, for each
    assert measuring.measured("our", 8, batch, setting())["latency_s"] == 1 + batch
    for name, size in {"tiny": 256, "our": 8}.items():
        assert measuring._in_full(name, size, batch, setting()).seconds == 1


def test_equal_blocks_stand_for_those_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = import_module("headline_parts.measuring")
    monkeypatch.setattr(measuring, "CACHED_BYTES", 0)
    network = torch.nn.Sequential(
        torch.nn.ModuleList([*(torch.nn.Linear(8, 8) for _ in range(7)), torch.nn.Linear(8, 4)])
    )
    stands_for = measuring.shortened(network, 2)
    assert stands_for == {"0.0": 3.5, "0.1": 3.5}
    assert [layer.out_features for layer in network[0]] == [8, 8, 4]
    x = torch.zeros(1, 8)
    best = measuring._best(lambda: [layer(x) for layer in network[0]], setting(), network, stands_for)
    assert (best.call, best.seconds) == (5.0, 10.0)
    monkeypatch.setattr(measuring, "CACHED_BYTES", 2**30)
    assert not measuring.shortened(torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(8)), 2)


@pytest.mark.parametrize(("longest", "timed"), [(80.0, True), (79.0, False)])
def test_a_batch_that_would_take_too_long_is_left_out(
    longest: float, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    headline = import_module("headline")
    monkeypatch.setattr(headline, "measured", lambda *_: {"latency_s": 1.0})
    single = {"call_s": 10.0, "latency_s": 900.0}
    row = headline._timed("SD3-medium", 1024, 8, setting(), single, longest)
    assert ("latency_s" in row) == timed
    assert timed or row["how"] == "not timed: a call would take about 1 minutes"


def test_tables_compare_rows_of_one_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    headline = import_module("headline")
    count = {"steps": 28, "parameters": 2_000_000, "attention": 0, "plain": 1e12, "decoder": 1e12, "text": 0}
    machine = {"processor": "x", "threads": 2, "torch": "2", "dtype": "bfloat16", "batch": 1, "how": "in full"}
    results = {
        "counts": {
            "HART 0.7B, 512 px": {**count, "network": 3e12},
            "SD3-medium, 512 px": {**count, "network": 7e12},
        },
        "times": {
            "HART 0.7B, 512 px, batch 1, bfloat16, cpu": {**machine, "latency_s": 2.0},
            "SD3-medium, 512 px, batch 1, bfloat16, cpu": {**machine, "latency_s": 9.0},
            "SD3-medium, 512 px, batch 8, bfloat16, cpu": {**machine, "batch": 8, "how": "out of memory"},
        },
    }
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    headline.main(["--out", str(file)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    rows = {(line[0], line[1]): line for line in lines if len(line) > 5}
    assert rows["SD3-medium, 512 px", "28"][8:] == ["2", "51.4T", "16.06"]
    assert rows["SD3-medium, 512 px", "1"][6:8] == ["4.5", "4.667"]
    assert rows["SD3-medium, 512 px", "8"][-1] == "out of memory"
