"""What is prepared for a machine with a GPU runs on a CPU with tiny models, and survives what can go wrong there."""

from __future__ import annotations

import io
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

CPU = torch.device("cpu")


class InThisProcess:
    """A part's process that is none, which saves its start. Its command is the real one."""

    def __init__(self, command: list[str], **_: Any) -> None:
        stream = io.StringIO()
        gpu = import_module("gpu")
        gpu.run_part(gpu.parse(command[command.index("--part") :]), stream)
        self.stdout = io.BytesIO(stream.getvalue().encode())

    def wait(self) -> int:
        return 0


def test_all_parts_run_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = import_module("gpu")
    for name in ("pytest", "hypothesis"):  # which that machine lacks
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("device_checks", "helpers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(Popen=InThisProcess, PIPE=None))
    gpu.main(["--minutes", "1000", "--out", str(tmp_path), "--device", "cpu"])
    state = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["outcome"] for name, part in state["parts"].items()} == dict.fromkeys(state["parts"], "done")
    assert all(state["machine"][fact] for fact in ("commit", "source", "torch", "processor"))
    correct, generated, trained = (state["parts"][name]["rows"] for name in ("correctness", "generation", "training"))
    for rows in (correct, generated, trained):
        assert not [key for key, row in rows.items() if "error" in row]
    assert {row["dtype"] for row in correct.values() if "keys" in row} == {"float32", "bfloat16"}
    assert not [row["failed"] for row in correct.values() if row.get("dtype") == "float32" and row["failed"]]
    assert all(row["passed"] for key, row in correct.items() if key.startswith("device"))
    cells = [generated[f"{size} px, batch {batch}"] for batch in (1, 8) for size in (256, 512, 1024)]
    cells.append(generated["256 px, plain"])
    for row in cells:
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["ratio"] == pytest.approx(row["median_s"] / row["floor_s"])
        assert sum(part["floor_s"] for part in row["parts"].values()) == pytest.approx(row["floor_s"])
        names = list(row["parts"])
        assert names[0] == "context" and names[-3:] == ["residual diffusion", "decoder", "rest"]
    steps = [row for row in trained.values() if "mfu" in row]
    assert [row["size"] for row in steps] == [256, 512]
    for row in steps:
        assert row["tokens_per_s"] == pytest.approx(row["rows"] * row["tokens_an_image"] / row["median_s"])
    text = (tmp_path / "gpu.md").read_text()
    for wanted in ("time / floor", "tokens/s", "| 1024 px, batch 8 |", "### t2i: largest difference by quantity"):
        assert wanted in text


def cells(**settings: Any) -> tuple[Any, io.StringIO]:
    stream = io.StringIO()
    return import_module("gpu_parts.cells").Cells(CPU, settings.pop("seconds", 1000.0), stream, **settings), stream


def fail(error: BaseException) -> Any:
    raise error


def test_a_measurement_that_fails_is_a_row_and_the_next_one_runs() -> None:
    run, stream = cells(done=("first",))
    run.cell("first", lambda: fail(AssertionError("was done before")), limit=5)
    run.cell("large", lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")), limit=5)
    run.cell("odd", lambda: fail(ValueError("two\nlines")), limit=5)
    run.cell("sound", lambda: {"x": 1}, limit=5)
    run.seconds = 0
    run.cell("late", lambda: {"x": 2}, limit=5)
    rows = {m["row"]: m["values"] for m in map(json.loads, stream.getvalue().splitlines()) if "row" in m}
    assert rows["large"]["error"] == "out of memory"
    assert rows["odd"]["error"] == "ValueError: two"
    assert rows["sound"]["x"] == 1
    assert "left out" in rows["late"]["error"] and list(rows) == ["large", "odd", "sound", "late"]


def test_reports_have_standard_output_for_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    kept = os.dup(1)
    try:
        with import_module("gpu_parts.cells").report_stream() as stream:
            os.write(1, b"a print")
            stream.write("{}")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert capfd.readouterr() == ("{}", "a print")


STUB = """
import json, os, sys, threading
done = sys.argv[sys.argv.index("--done") + 1:]
def tell(**message): print(json.dumps(message), flush=True)
def cell(key, work, limit=1000):
    if key in done: return
    tell(begin=key, limit=limit)
    work()
    tell(row=key, values={"batch": 1})
cell("good", lambda: None)
cell("crash", lambda: os._exit(3))
cell("hang", lambda: threading.Event().wait(), limit=0.5)
cell("last", lambda: print("said to the log", file=sys.stderr))
"""


def test_a_part_that_crashes_or_hangs_goes_on_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = import_module("gpu")
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "stub.py"))
    gpu.main(["--minutes", "1000", "--out", str(tmp_path / "out"), "--device", "cpu", "--parts", "training"])
    part = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]["training"]
    assert part["outcome"] == "done" and list(part["rows"]) == ["good", "crash", "hang", "last"]
    assert part["rows"]["crash"]["error"] == "the process died with status 3"
    assert part["rows"]["hang"]["error"] == "stopped: its time was over"
    assert "said to the log" in (tmp_path / "out" / "gpu.log").read_text()
