"""`verify` fails where it must: wrong numbers, other shapes, keys that nothing computes, damaged cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.loading import load_model
from hart.checkpoint.storage import read_safetensors
from hart.checkpoint.verification import CASE_FILE, GOLDEN_FILE, verify
from hart.errors import HartError
from helpers import GOLDEN_INPUTS

GOLDEN = Path(__file__).parent.parent / "golden"
CASE = GOLDEN / "var-c2i"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy, without its golden numbers, of the case that a test names by `of`."""
    copy = tmp_path / request.param
    copy.mkdir()
    for file in (GOLDEN / request.param).iterdir():
        (copy / file.name).symlink_to(file)
    (copy / GOLDEN_FILE).unlink()
    return copy


def of(*cases: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", cases, indirect=True, ids=cases)


@of("var-c2i")
def test_a_model_without_recorded_numbers_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"var-c2i: has no golden\.safetensors: give a checkpoint with numbers"):
        verify(folder)


@of("var-c2i")
def test_inputs_alone_prove_nothing(folder: Path) -> None:
    golden = read_safetensors(CASE / GOLDEN_FILE)
    save_file({name: value for name, value in golden.items() if name in GOLDEN_INPUTS}, folder / GOLDEN_FILE)
    with pytest.raises(CheckpointError, match="nothing to compare"):
        verify(folder)


@of("var-c2i")
def test_names_what_differs_and_what_it_cannot_compute(folder: Path) -> None:
    golden = read_safetensors(CASE / GOLDEN_FILE)
    golden["tokenizer.reconstruction"] += 2e-4 * golden["tokenizer.reconstruction"].abs().max().clamp(min=1)
    golden["tokenizer.indices.5"][0, 3] += 1
    golden["teacher.logits"] = golden["teacher.logits"][:, 1:].contiguous()
    golden["tokenizer.nobody_computes_this"] = torch.zeros(1)
    save_file(golden, folder / GOLDEN_FILE)
    failed = {c.name: c for c in verify(folder) if not c.passed}
    assert set(failed) == {
        "tokenizer.reconstruction",
        "tokenizer.indices.5",
        "teacher.logits",
        "tokenizer.nobody_computes_this",
    }
    assert "1 of" in failed["tokenizer.indices.5"].remark
    assert "shape" in failed["teacher.logits"].remark
    assert "not recomputed" in failed["tokenizer.nobody_computes_this"].remark


@of("t2i")
def test_codes_of_a_model_with_base_scales_are_those_of_its_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder)
    scales = model.tokenizer.config.scales
    model.tokenizer.config = model.tokenizer.config.replace(base_scales=scales[:-1])
    monkeypatch.setattr("hart.checkpoint.verification.load_model", lambda _: model)
    recorded = read_safetensors(GOLDEN / "t2i" / GOLDEN_FILE)
    golden = {name: value for name, value in recorded.items() if name in GOLDEN_INPUTS}
    image = golden["tokenizer.image"]
    with torch.no_grad():
        maps = model.tokenizer.token_maps_of_image(image)
        plain = model.tokenizer.token_maps(model.tokenizer.encode(image))
    assert not torch.equal(maps.indices[3], plain.indices[3])
    golden |= {f"tokenizer.indices.{k}": index for k, index in enumerate(maps.indices)}
    golden["tokenizer.teacher_forcing_input"] = maps.teacher_forcing_input
    save_file(golden, folder / GOLDEN_FILE)
    assert [compared.name for compared in verify(folder) if not compared.passed] == []


@of("t2i", "var-c2i")
def test_inputs_that_are_absent_or_do_not_fit_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder)
    monkeypatch.setattr("hart.checkpoint.verification.load_model", lambda _: model)
    golden = read_safetensors(GOLDEN / folder.name / GOLDEN_FILE)
    inputs = sorted(GOLDEN_INPUTS & set(golden))
    assert len(inputs) == (6 if folder.name == "t2i" else 2)
    for name in inputs:
        save_file({key: value for key, value in golden.items() if key != name}, folder / GOLDEN_FILE)
        with pytest.raises(CheckpointError, match=rf"{GOLDEN_FILE}: inputs do not fit the model \('{name}'\)"):
            verify(folder)
    save_file(golden | {"tokenizer.image": golden["tokenizer.image"][0]}, folder / GOLDEN_FILE)
    with pytest.raises(CheckpointError, match=rf"{GOLDEN_FILE}: inputs do not fit the model \(.+\)"):
        verify(folder)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ([], "does not hold a JSON object"),
        ({}, "lacks guidance_scale, smooth"),
        ({"guidance_scale": "high", "smooth": True}, "guidance_scale: expected a number"),
        ({"guidance_scale": 3.0, "smooth": 1}, "smooth: expected true or false"),
        ({"guidance_scale": 3.0, "smooth": True, "maskgit_iterations": 0}, "maskgit_iterations must be at least 1"),
        ({"guidance_scale": 3.0, "smooth": True, "maskgit_iterations": 99}, "maskgit_iterations must be at most 64"),
    ],
)
@of("t2i")
def test_a_case_without_its_settings_is_an_error(folder: Path, case: Any, message: str) -> None:
    (folder / GOLDEN_FILE).symlink_to(GOLDEN / "t2i" / GOLDEN_FILE)
    (folder / CASE_FILE).unlink()
    (folder / CASE_FILE).write_text(json.dumps(case), encoding="utf-8")
    with pytest.raises(HartError, match=f"{CASE_FILE}: .*{message}"):
        verify(folder)
