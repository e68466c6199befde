"""Training of both stages within a given time, on a CPU with tiny models, and what can go wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from hart import HartError, HartPipeline
from hart.checkpoint import load_model, read_safetensors, save_module
from hart.data import CaptionedImages
from hart_emoji.shipped import __main__ as program
from hart_emoji.shipped import pack, stages, weights
from tiny import save_images, save_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are processes of their own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


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
    config = HartPipeline.from_pretrained(save_model(tmp_path / "model"), device="cpu").config
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
    save_images(tmp_path / "set", 5)
    sizes, damaged = pack.write_pack(str(tmp_path / "set"), tmp_path / "pack", split="train", size=8)
    assert damaged == ()
    assert set(sizes) > {"images.safetensors", "perceptual.safetensors", "site/efficientnet_lite_pytorch/model.py"}
    assert sizes["perceptual.safetensors"] < 4e6
    ours, theirs = pack.read_pack(tmp_path / "pack"), pack.open_dataset(tmp_path / "set", "train", 8)
    rows = [theirs.texts.index(text) for text in ours.texts]
    assert sorted(rows) == list(range(len(theirs)))
    assert torch.equal(ours.pixels, theirs.pixels[rows]) and torch.equal(ours.weights, theirs.weights[rows])


def test_images_of_a_concept_share_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "WIDEST", 2)
    rows = (("b", "x"), ("a", None), ("b", "a"), ("b", None))
    records = [{"concept": name, "style": "noto", "skin_tone": tone} for name, tone in rows]
    data = CaptionedImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), (("x",),) * 4, torch.ones(4), tuple(records))
    assert pack.sheets(data) == ([1, 3, 2, 0], [[1], [3, 2], [0]])


def test_vector_files_are_rendered_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("resvg_py")
    circle = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="3" fill="red"/></svg>'
    (tmp_path / "red-dot.svg").write_text(circle)
    (tmp_path / "b.svg").write_text(circle.replace("red", "blue"))
    (tmp_path / "b.txt").write_text("a blue dot\nblue\n")
    (tmp_path / "nothing.svg").write_text(circle.replace("red", "white"))
    program.main(["pack", str(tmp_path), str(tmp_path / "pack"), "--size", "16"])
    assert "left out 1 images that cannot be read (" in capsys.readouterr().err
    data = pack.read_pack(tmp_path / "pack")
    assert data.texts == (("a blue dot", "blue"), ("red dot",))
    assert data.pixels[1, :, 8, 8].tolist() == [255, 0, 0] and data.pixels[1, :, 0, 0].tolist() == [255] * 3


def test_a_drawing_beside_other_images_does_not_take_their_place(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "a.txt").write_text("red")
    (tmp_path / "set" / "logo.svg").write_text("<svg/>")
    pack.write_pack(str(tmp_path / "set"), tmp_path / "pack", split="all", size=16)
    assert pack.read_pack(tmp_path / "pack").texts == (("red",),)


def options(tmp_path: Path, recipes: Path, **more: str) -> list[str]:
    given = {
        "--out": tmp_path / "out",
        "--work": tmp_path / "work",
        "--recipes": recipes,
        "--device": "cpu",
    } | more
    return ["train", str(tmp_path / "pack"), "--no-compile", *(str(word) for pair in given.items() for word in pair)]


def test_what_is_not_there_is_one_line(tmp_path: Path, recipes: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*none does not exist"):
        program.main(["pack", str(tmp_path / "none"), str(tmp_path / "pack")])
    with pytest.raises(SystemExit, match=r"^error: .*pack: there is no pack"):
        program.main(options(tmp_path, recipes, **{"--minutes": "1"}))
    # a typing error in a setting of the second stage does not cost the time of the first
    save_images(tmp_path / "set", 5)
    pack.write_pack(str(tmp_path / "set"), tmp_path / "pack", split="train", size=8)
    with pytest.raises(SystemExit, match=r"^error: .*transformer\.toml: trainer\.stepz: unknown key"):
        program.main(options(tmp_path, recipes, **{"--minutes": "1", "--transformer": "trainer.stepz=3"}))
    with pytest.raises(SystemExit, match=r"^error: code_corruption is for augmented versions"):
        program.main(options(tmp_path, recipes, **{"--minutes": "1", "--transformer": "code_corruption=0.1"}))
    with pytest.raises(
        SystemExit, match=r"^error: .*pack: images of 8 px, and the recipe is for 32: pack with --size 32"
    ):
        program.main(options(tmp_path, recipes, **{"--minutes": "1"}))
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_both_stages_are_trained_in_the_time_and_come_back_in_small_files(
    tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_images(tmp_path / "set", 6)
    program.main(["pack", str(tmp_path / "set"), str(tmp_path / "pack"), "--size", str(SIZE)])
    popen = subprocess.Popen

    def process(command: list[str], **settings: Any) -> Any:
        """The first stage in a process of its own, the others here, which saves their start."""
        if "tokenizer" in command:
            return popen(command, **settings)
        program.main(command[command.index("train") :])
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(program, "subprocess", SimpleNamespace(Popen=process))
    # time for the least that a stage does: four steps that are timed, and one
    program.main(options(tmp_path, recipes, **{"--minutes": "0.001", "--grace": "600"}))
    record = json.loads((tmp_path / "out" / "train_shipped.json").read_text())
    assert [stage["outcome"] for stage in record["stages"].values()] == ["done", "done"], record["log"]
    steps = {name: stage["plan"]["steps"] for name, stage in record["stages"].items()}
    assert set(steps.values()) == {4 + 1}
    names = {re.sub("[0-9]{9,}", "N", path.name) for path in (tmp_path / "out").iterdir()}
    others = {"train_shipped.json", "tokenizer.jsonl", "transformer.jsonl", "samples.png"}
    assert names == {"model-N.tar.1-of-1", *others}
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
    assert load_model(weights.join(tmp_path / "out", tmp_path / "again")).config == trained.config


def test_a_stage_that_was_stopped_goes_on(tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images(tmp_path / "set", 4)
    data = pack.open_dataset(tmp_path / "set", "train", SIZE)
    monkeypatch.setattr(stages, "read_pack", lambda _: data)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stages.time, "time", lambda: clock.now)
    monkeypatch.setattr(stages, "save_time", lambda *_: 0.0)
    monkeypatch.setattr(stages.statistics, "median", lambda _: 1.0)

    def job(deadline: float) -> Any:
        work, out = tmp_path / "work", tmp_path / "out"
        return stages.Job(tmp_path / "pack", work, out, recipes, CPU, deadline, ("revive_every=2",), perceptual=False)

    stages.run_stage(job(10.0), "tokenizer")
    plan = json.loads((tmp_path / "work" / "tokenizer" / "plan.json").read_text())
    assert plan["steps"] == 4 + 9  # of the trial, and 94% of ten seconds at a second a step
    stages.run_stage(job(5.0), "tokenizer")
    logged = [json.loads(line)["step"] for line in (tmp_path / "out" / "tokenizer.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 13 + 4 + 1))


def test_weights_of_two_exports_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST_FILE", 9000)
    model, out = tmp_path / "model", tmp_path / "out"
    save_module(model / "net.safetensors", torch.nn.Linear(8, 16))
    (model / "words.json.gz").write_bytes(b"\x1f\x8b\0")
    first, second = weights.export(model, out)
    assert [path.name.split(".")[-1] for path in (first, second)] == ["1-of-2", "2-of-2"]
    assert all(path.stat().st_size <= 9000 for path in out.iterdir())
    joined = weights.join(out, tmp_path / "joined")
    theirs = read_safetensors(joined / "net.safetensors")
    for name, ours in read_safetensors(model / "net.safetensors").items():
        assert torch.equal(theirs[name], ours.half())
    assert (joined / "words.json.gz").read_bytes() == b"\x1f\x8b\0"
    older = first.read_bytes()
    newer, _ = weights.export(model, out)
    assert len(list(out.iterdir())) == 2, "those of the export before are gone"
    newer.unlink()
    first.write_bytes(older)
    with pytest.raises(HartError, match="files of the model are missing"):
        weights.join(out, joined)
