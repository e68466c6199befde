"""The benchmark program runs from its command line and prints its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_class_config, tiny_text_config

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "generate_cpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["text", "class"])
def test_prints_machine_floor_latency_ratio_and_parts(config: object, tmp_path: Path) -> None:
    model, figures = tmp_path / "config.json", tmp_path / "figures.json"
    model.write_text(config.to_json())  # type: ignore[attr-defined]
    finished = run(
        "--model", str(model), "--random-weights", "--threads", "1", "--repeats", "2", "--json", str(figures),
        "--squares", "32",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    for line in ("- processor: ", "- AMX: ", "- threads: 1", "- floor: ", "- latency: ", "- ratio: "):
        assert line in finished.stdout
    result = json.loads(figures.read_text())
    assert len(result["latencies_s"]) == 2
    # floor and ratios follow from the counted FLOPs and the fastest rate
    fastest = max(result["rates_gflops"].values())
    assert result["floor_s"] == pytest.approx(result["gflop"] / fastest)
    assert result["ratio_best"] == pytest.approx(min(result["latencies_s"]) / result["floor_s"])
    # the parts are the whole
    parts = result["parts"].values()
    assert sum(part["gflop"] for part in parts) == pytest.approx(result["gflop"])
    assert sum(part["best_run_s"] for part in parts) == pytest.approx(min(result["latencies_s"]))
    assert all(part["best_run_s"] >= 0 for part in parts)


def test_refuses_processor_time_of_several_threads() -> None:
    finished = run("--model", "var-d16-256", "--random-weights", "--clock", "cpu", "--threads", "2")
    assert finished.returncode == 2
    assert "--threads 1" in finished.stderr
