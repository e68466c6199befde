"""`hart evaluate` through its entry point: tables and files of each suite, and one line for every error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from command_line import evaluate, refused
from command_line import figures as written_figures
from image_files import numbered, write_captioned_folder


def figures(result: Result, out: Path) -> dict[str, Any]:
    """What a successful suite wrote and printed."""
    values = written_figures(result, out)
    assert "note: " in result.stderr
    table = (out / "table.md").read_text()
    # the table comes first on stdout, then the files
    assert result.stdout.split("\n", 1)[0] in table
    assert str(out / "figures.json") in result.stdout.splitlines()
    return values


def test_tokenizer(text_model: Path, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 6)
    out = tmp_path / "out"
    result = evaluate("tokenizer", "--model", text_model, "--data", tmp_path / "set", "--split", "train", "--size", 16,
                 "--scales", "1,2,4,8", "--limit", 5, "--resamples", 2, "--device", "cpu", "--out", out)  # fmt: skip
    values = figures(result, out)
    assert set(values["figures"]) == {"discrete", "hybrid"}
    assert values["counts"] == {"images": 5, "damaged": 0}
    assert values["settings"]["scales"] == [1, 2, 4, 8]
    columns = set(values["figures"]["hybrid"])
    assert {"PSNR, dB", "SSIM", "distance (efficientnet-lite0)", "rFID (efficientnet-lite0)"} < columns
    assert "fewer than 10,000" in result.stderr
    with Image.open(out / "reconstructions.png") as sheet:
        # five groups of three images (input, discrete, hybrid), enlarged to about 128 px
        assert sheet.width % (3 * (128 + 4) + 4) == 0


def test_tokenizer_goes_on_after_a_stop(text_model: Path, tmp_path: Path) -> None:
    """What was measured of a batch is not measured again; of other scales it is another measurement."""
    write_captioned_folder(tmp_path / "set", 4)
    out = tmp_path / "out"
    arguments = ("tokenizer", "--model", text_model, "--data", tmp_path / "set", "--split", "train", "--size", 16,
                 "--batch-size", 2, "--resamples", 0, "--device", "cpu", "--out", out, "--scales")  # fmt: skip
    values = figures(evaluate(*arguments, "1,2,4,8"), out)
    sheet = (out / "reconstructions.png").read_bytes()
    first, second = sorted((out / "measured").iterdir())
    before = first.stat().st_mtime_ns
    second.unlink()
    again = figures(evaluate(*arguments, "1,2,4,8"), out)
    assert again["figures"] == values["figures"] and (out / "reconstructions.png").read_bytes() == sheet
    assert sorted((out / "measured").iterdir()) == [first, second]
    assert first.stat().st_mtime_ns == before
    assert figures(evaluate(*arguments, "1,3,8"), out)["figures"]["discrete"] != values["figures"]["discrete"]
    # what was there is kept
    assert json.loads((out / "figures-1.json").read_text())["figures"] == values["figures"]
    assert (out / "reconstructions-1.png").read_bytes() == sheet
    assert len(list((out / "measured").iterdir())) == 4
    second.write_bytes(b"cut off")
    damaged = evaluate(*arguments, "1,2,4,8")
    assert str(second) in refused(damaged, notes=True)


def test_generation_goes_on_after_a_stop(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_captioned_folder(tmp_path / "set", 7)
    (tmp_path / "set" / "train" / "0002.txt").unlink()  # no prompt, but an image to compare with
    out = tmp_path / "out"
    arguments = ("generation", "--model", text_model, "--data", tmp_path / "set", "--split", "train", "--limit", 5,
                 "--resamples", 2, "--device", "cpu", "--out", out)  # fmt: skip
    values = figures(evaluate(*arguments), out)
    assert values["counts"] == {"generated": 5, "references": 7, "damaged": 0}
    names = {name.removesuffix(" (efficientnet-lite0)") for name in values["figures"]["generated"]}
    assert names == {"FID", "KID", "precision", "recall", "Inception Score"}
    plan = json.loads((out / "images" / "plan.json").read_text())
    assert len(plan["prompts"]) == 5 and all(" of " in prompt for prompt in plan["prompts"])
    (out / "images" / "000003.png").unlink()
    kept = (out / "images" / "000002.png").stat().st_mtime_ns
    assert figures(evaluate(*arguments), out)["figures"] == values["figures"]
    assert (out / "images" / "000002.png").stat().st_mtime_ns == kept
    # other settings are refused before the features of a large set are computed
    monkeypatch.setattr("hart.evaluation.suites.generation.open_extractor", lambda *_: pytest.fail("opened"))
    again = refused(evaluate(*arguments, "--guidance", 1), notes=True)
    assert "differ in sampling.guidance_scale: choose another --out" in again


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--scales", "1,x"), "--scales[1]"),
        (("--distance", "lpips"), "'lpips' needs weights"),
        (("--limit", "3"), "--limit must be at least 4"),
    ],
)
def test_bad_input_is_one_line(text_model: Path, tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    write_captioned_folder(tmp_path / "set", 4)
    result = evaluate("tokenizer", "--model", text_model, "--data", tmp_path / "set", "--split", "train", "--size", 16,
                      *given, "--out", tmp_path / "out")  # fmt: skip
    assert said in refused(result, notes=True)
    assert not (tmp_path / "out").exists(), "a command that refuses leaves no folder"


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a set is said before the network of its features is opened."""
    for suite in ("tokenizer", "generation"):
        monkeypatch.setattr(f"hart.evaluation.suites.{suite}.open_extractor", lambda *_: pytest.fail("opened"))


@pytest.mark.parametrize(
    ("suite", "given", "said"),
    [
        ("tokenizer", ("--size", 16), "needs at least 4 images, not 3: take --split all, or give"),
        ("generation", (), "needs at least 4 images, not 3: take --split all, or give a set of more"),
        ("generation", ("--limit", 9), "9 images asked for, the set has 5 with captions: lower --limit"),
    ],
)
@pytest.mark.usefixtures("unopened")
def test_a_set_that_is_too_small_is_said(
    suite: str, given: tuple[Any, ...], said: str, text_model: Path, tmp_path: Path
) -> None:
    write_captioned_folder(tmp_path / "set", 5 if "--limit" in given else 3)
    result = evaluate(suite, "--model", text_model, "--data", tmp_path / "set", "--split", "train", *given,
                      "--out", tmp_path / "out")  # fmt: skip
    assert said in refused(result, notes=True)


@pytest.mark.usefixtures("unopened")
def test_missing_captions_are_said(text_model: Path, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 5)
    (tmp_path / "set" / "train" / "0002.txt").unlink()
    result = evaluate("generation", "--model", text_model, "--data", tmp_path / "set", "--split", "train",
                      "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    said = r"5 images asked for, the set has 4 with captions \(.*/0002\.png: no caption\): lower --limit"
    assert re.search(said, refused(result, notes=True))


@pytest.mark.usefixtures("unopened")
def test_classes_that_the_model_lacks_are_said(class_model: Path, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 5)
    for number, label in enumerate((0, 0, 0, 0, 999999)):
        (tmp_path / "set" / "train" / f"000{number}.cls").write_text(str(label))
    result = evaluate("generation", "--model", class_model, "--data", tmp_path / "set", "--split", "train",
                      "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert "not 999999" in refused(result, notes=True)


@pytest.mark.parametrize("named", [3, 6])
def test_a_set_that_numbers_other_classes_than_the_model_is_said(named: int, class_model: Path, tmp_path: Path) -> None:
    for number in range(named):
        (tmp_path / "set" / "val" / f"class {number}").mkdir(parents=True)
        for image in range(2):
            (tmp_path / "set" / "val" / f"class {number}" / f"{image}.png").write_bytes(numbered(number))
    result = evaluate("generation", "--model", class_model, "--data", tmp_path / "set", "--limit", 4, "--resamples", 0,
                      "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    said = "the set has 3 classes by name, of 6 that the model generates by number"
    assert result.exit_code == 0 and (said in result.output) == (named == 3), result.output


@pytest.mark.parametrize("suite", ["tokenizer", "generation"])
def test_a_set_that_is_not_there_is_said_before_a_model_is_opened(
    suite: str, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart.checkpoint.loading.load_model", lambda *_, **__: pytest.fail("opened"))
    result = evaluate(suite, "--model", text_model, "--data", tmp_path / "absent", "--out", tmp_path / "out")
    assert "absent does not exist" in refused(result, notes=True)
