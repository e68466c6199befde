"""What is prepared for a machine with a GPU runs on a CPU with tiny models, and survives what can go wrong there."""

from __future__ import annotations

import importlib
import io
import json
import queue
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from hart.checkpoint.loading import load_model
from hart.data.datasets import CaptionedImages
from hart.errors import HartError
from helpers import pictures
from models import save_tiny_text_model
from picture_files import write_captioned_folder

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


# --- gpu.py


@pytest.mark.slow
def test_all_parts_run_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the parts in this process, which saves their start; the last in its own."""
    gpu, correctness = module("gpu"), module("gpu_parts.correctness")
    apart = gpu.Run._process

    def process(run: Any, name: str, part: Any, end: float) -> int | None:
        if name == "training":
            return int(apart(run, name, part, end))
        stream, messages = io.StringIO(), queue.Queue[str | None]()
        gpu.run_part(gpu.parse(["--part", name, "--seconds", "60", "--device", "cpu", "--tiny"]), stream)
        for line in (*stream.getvalue().splitlines(), None):
            messages.put(line)
        return int(run._follow(SimpleNamespace(wait=lambda: 0), messages, part, end))

    monkeypatch.setattr(gpu.Run, "_process", process)
    # the file that pytest runs there runs with all the others too
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_devices.py").write_text("def test_nothing(): pass\n")
    monkeypatch.setattr(correctness, "ROOT", tmp_path)
    gpu.main(["--minutes", "5", "--out", str(tmp_path), "--device", "cpu"])
    state = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["outcome"] for name, part in state["parts"].items()} == dict.fromkeys(state["parts"], "done")
    assert all(state["machine"][fact] for fact in ("commit", "source", "torch", "processor"))
    correct, drawn, trained = (state["parts"][name]["rows"] for name in ("correctness", "generation", "training"))
    for rows in (correct, drawn, trained):
        assert not [key for key, row in rows.items() if "error" in row]
    assert {row["dtype"] for row in correct.values() if "keys" in row} == {"float32", "bfloat16"}
    assert not [row["failed"] for row in correct.values() if row.get("dtype") == "float32" and row["failed"]]
    assert correct["pytest tests/test_devices.py"]["passed"]
    assert correct["pytest tests/test_devices.py"]["summary"].startswith("1 passed")
    cells = [drawn[f"{size} px, batch {batch}"] for batch in (1, 8) for size in (256, 512, 1024)]
    for row in cells:
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["ratio"] == pytest.approx(row["median_s"] / row["floor_s"])
        assert sum(part["floor_s"] for part in row["parts"].values()) == pytest.approx(row["floor_s"])
        names = list(row["parts"])
        assert names[0] == "context" and names[-3:] == ["residual diffusion", "decoder", "rest"]
    steps = [row for row in trained.values() if "mfu" in row]
    assert [row["size"] for row in steps] == [256, 512]
    for row in steps:
        assert row["tokens_per_s"] == pytest.approx(row["rows"] * row["tokens_a_picture"] / row["median_s"])
    text = (tmp_path / "gpu.md").read_text()
    for wanted in ("time / floor", "tokens/s", "| 1024 px, batch 8 |", "### t2i: largest difference by quantity"):
        assert wanted in text


def cells(**settings: Any) -> tuple[Any, io.StringIO]:
    stream = io.StringIO()
    return module("gpu_parts.cells").Cells(CPU, settings.pop("seconds", 60.0), stream, **settings), stream


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


STUB = """
import json, os, sys, time
done = sys.argv[sys.argv.index("--done") + 1:]
def tell(**message): print(json.dumps(message), flush=True)
def cell(key, work, limit=30):
    if key in done: return
    tell(begin=key, limit=limit)
    work()
    tell(row=key, values={"batch": 1})
cell("good", lambda: None)
cell("crash", lambda: os._exit(3))
cell("hang", lambda: time.sleep(60), limit=0.5)
cell("last", lambda: print("said to the log", file=sys.stderr))
"""


def test_a_part_that_crashes_or_hangs_goes_on_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = module("gpu")
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "stub.py"))
    gpu.main(["--minutes", "1", "--out", str(tmp_path / "out"), "--device", "cpu", "--parts", "training"])
    part = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]["training"]
    assert part["outcome"] == "done" and list(part["rows"]) == ["good", "crash", "hang", "last"]
    assert part["rows"]["crash"]["error"] == "the process died with status 3"
    assert part["rows"]["hang"]["error"] == "stopped: its time was over"
    assert "said to the log" in (tmp_path / "out" / "gpu.log").read_text()


# --- train_shipped.py


# 32 px, the least that the perceptual network takes
SCALES, SIZE = (1, 2, 16), 32
RECIPE = """
data = ""
[trainer]
steps = 1
batch_size = 4
[optimizer]
learning_rate = 1e-3
warmup_steps = 4
kind = "muon"
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """Recipes of a tiny model, whose text encoder lies in `model`."""
    config = load_model(save_tiny_text_model(tmp_path / "model")).config
    assert config.diffusion is not None
    folder = tmp_path / "recipes"
    folder.mkdir()
    for stage, more in (
        (
            "tokenizer",
            {"tokenizer": config.tokenizer.replace(scales=SCALES), "perceptual": {"kind": "efficientnet_lite0"}},
        ),
        ("transformer", {"transformer": config.transformer.replace(scales=SCALES), "diffusion": config.diffusion}),
    ):
        tables = {name: table if isinstance(table, dict) else table.to_dict() for name, table in more.items()}
        (folder / f"{stage}.toml").write_text(RECIPE + "".join(toml(name, table) for name, table in tables.items()))
    return folder


def toml(name: str, table: dict[str, Any]) -> str:
    plain = {key: value for key, value in table.items() if value is not None and not isinstance(value, dict)}
    inner = {f"{name}.{key}": value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in plain.items()]
    return f"[{name}]\n" + "".join(lines) + "".join(toml(key, value) for key, value in inner.items())


def test_a_pack_holds_the_set(tmp_path: Path) -> None:
    pack = module("shipped_parts.pack")
    write_captioned_folder(tmp_path / "set", 5)
    sizes = pack.write_pack(str(tmp_path / "set"), tmp_path / "pack", split="train", size=8)
    assert set(sizes) > {"pictures.safetensors", "perceptual.safetensors", "site/efficientnet_lite_pytorch/model.py"}
    assert sizes["perceptual.safetensors"] < 4e6
    ours, theirs = pack.read_pack(tmp_path / "pack"), pack.open_dataset(tmp_path / "set", "train", 8)
    rows = [theirs.texts.index(text) for text in ours.texts]
    assert sorted(rows) == list(range(len(theirs)))
    assert torch.equal(ours.pixels, theirs.pixels[rows]) and torch.equal(ours.weights, theirs.weights[rows])


def test_pictures_of_a_concept_share_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = module("shipped_parts.pack")
    monkeypatch.setattr(pack, "WIDEST", 2)
    rows = (("b", "x"), ("a", None), ("b", "a"), ("b", None))
    records = [{"concept": name, "style": "noto", "skin_tone": tone} for name, tone in rows]
    data = CaptionedImages(pictures(4).pixels, (("x",),) * 4, torch.ones(4), tuple(records))
    assert pack.sheets(data) == ([1, 3, 2, 0], [[1], [3, 2], [0]])


def test_vector_files_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    pack = module("shipped_parts.pack")
    circle = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="3" fill="red"/></svg>'
    (tmp_path / "red-dot.svg").write_text(circle)
    (tmp_path / "b.svg").write_text(circle.replace("red", "blue"))
    (tmp_path / "b.txt").write_text("a blue dot\nblue\n")
    pack.write_pack(str(tmp_path), tmp_path / "pack", split="train", size=16)
    data = pack.read_pack(tmp_path / "pack")
    assert data.texts == (("a blue dot", "blue"), ("red dot",))
    assert data.pixels[1, :, 8, 8].tolist() == [255, 0, 0] and data.pixels[1, :, 0, 0].tolist() == [255] * 3


def options(tmp_path: Path, recipes: Path, **more: str) -> list[str]:
    given = {
        "--out": tmp_path / "out",
        "--work": tmp_path / "work",
        "--recipes": recipes,
        "--device": "cpu",
        "--transformer": f"text_encoder={tmp_path / 'model'}",
    } | more
    return ["train", str(tmp_path / "pack"), "--no-compile", *(str(word) for pair in given.items() for word in pair)]


@pytest.mark.slow
def test_both_stages_are_trained_in_the_time_and_come_back_in_small_files(
    tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, weights = module("train_shipped"), module("shipped_parts.weights")
    write_captioned_folder(tmp_path / "set", 6)
    program.main(["pack", str(tmp_path / "set"), str(tmp_path / "pack"), "--size", str(SIZE)])
    popen = subprocess.Popen

    def process(command: list[str], **settings: Any) -> Any:
        """The first stage in a process of its own, the others here, which saves their start."""
        if "tokenizer" in command:
            return popen(command, **settings)
        program.main(command[2:])
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(program, "subprocess", SimpleNamespace(Popen=process))
    # time for the least that a stage does: four steps that are timed, and one
    program.main(options(tmp_path, recipes, **{"--minutes": "0.001", "--grace": "600"}))
    record = json.loads((tmp_path / "out" / "train_shipped.json").read_text())
    assert [stage["outcome"] for stage in record["stages"].values()] == ["done", "done"], record["log"]
    steps = {name: stage["plan"]["steps"] for name, stage in record["stages"].items()}
    assert set(steps.values()) == {4 + 1}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "train_shipped.json",
        "model.json",
        "weights-1-of-1.safetensors",
        "tokenizer.jsonl",
        "transformer.jsonl",
        "samples.png",
    }
    program.main(["join", str(tmp_path / "out"), str(tmp_path / "joined")])
    joined, trained = load_model(tmp_path / "joined"), load_model(tmp_path / "work" / "transformer" / "model")
    assert joined.config == trained.config
    for ours, theirs in zip(joined.hart.parameters(), trained.hart.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.half().float())
    with Image.open(tmp_path / "out" / "samples.png") as samples:
        assert samples.width > 8
    # from what came back, the transformer alone
    again = options(tmp_path, recipes, **{"--minutes": "0.001", "--grace": "600", "--tokenizer-share": "0"})
    again[again.index("--work") + 1] = str(tmp_path / "work2")
    program.main([*again, "--from", str(tmp_path / "out")])
    more = json.loads((tmp_path / "out" / "train_shipped.json").read_text())["stages"]
    assert list(more) == ["transformer"] and more["transformer"]["outcome"] == "done"
    assert weights.read_export(tmp_path / "out")[0]["writing"].startswith("transformer")


def test_a_stage_that_was_stopped_goes_on(tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages, pack = module("shipped_parts.stages"), module("shipped_parts.pack")
    write_captioned_folder(tmp_path / "set", 4)
    data = pack.open_dataset(tmp_path / "set", "train", SIZE)
    monkeypatch.setattr(stages, "read_pack", lambda _: data)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stages.time, "time", lambda: clock.now)
    monkeypatch.setattr(stages, "save_time", lambda *_: 0.0)
    monkeypatch.setattr(stages.statistics, "median", lambda _: 1.0)

    def job(deadline: float) -> Any:
        work, out = tmp_path / "work", tmp_path / "out"
        return stages.Job(tmp_path / "pack", work, out, recipes, CPU, deadline, ("revive_every=2",), perceptual=False)

    stages.tokenizer_stage(job(10.0))
    plan = json.loads((tmp_path / "work" / "tokenizer" / "plan.json").read_text())
    assert plan["steps"] == 4 + 9  # of the trial, and 94% of ten seconds at a second a step
    stages.tokenizer_stage(job(5.0))
    logged = [json.loads(line)["step"] for line in (tmp_path / "out" / "tokenizer.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 13 + 4 + 1))


def test_weights_of_two_writings_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = module("shipped_parts.weights")
    monkeypatch.setattr(weights, "LARGEST_FILE", 600)
    linear = torch.nn.Sequential(*(torch.nn.Linear(8, 16) for _ in range(4)))
    files = weights.export(tmp_path, "one", {"tokenizer": {}, "hart": None}, tokenizer=linear)
    assert [path.name for path in files] == [f"weights-{i}-of-2.safetensors" for i in (1, 2)]
    assert all(path.stat().st_size < 2000 for path in files)
    first = files[0].read_bytes()
    assert weights.read_export(tmp_path)[1].keys() == {f"tokenizer.{name}" for name in linear.state_dict()}
    weights.export(tmp_path, "two", {"tokenizer": {}, "hart": None}, tokenizer=linear)
    files[0].write_bytes(first)
    with pytest.raises(HartError, match="are of two writings"):
        weights.read_export(tmp_path)
    files[0].unlink()
    with pytest.raises(HartError, match="weight files are missing"):
        weights.read_export(tmp_path)
    with pytest.raises(HartError, match="takes 256 bytes, a file takes 100"):
        weights.bounded({"x": torch.zeros(64)}, 100)
