"""`verify` fails where it must: wrong numbers, other shapes, keys that nothing computes, damaged cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hart.checkpoint.storage import CheckpointError, read_safetensors
from hart.verification import CASE_FILE, GOLDEN_FILE, verify

CASE = Path(__file__).parent / "golden" / "var-c2i"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a golden case whose golden file a test may rewrite."""
    for file in CASE.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / GOLDEN_FILE).unlink()
    return tmp_path


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
    assert "no computation" in failed["tokenizer.nobody_computes_this"].remark


def test_a_case_without_its_inputs_is_an_error(folder: Path) -> None:
    golden = read_safetensors(CASE / GOLDEN_FILE)
    del golden["labels"]
    save_file(golden, folder / GOLDEN_FILE)
    with pytest.raises(CheckpointError, match="labels"):
        verify(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_an_unreadable_case_is_an_error(folder: Path, content: bytes) -> None:
    save_file(read_safetensors(CASE / GOLDEN_FILE), folder / GOLDEN_FILE)
    (folder / CASE_FILE).unlink()
    (folder / CASE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=CASE_FILE):
        verify(folder)


def test_a_folder_without_golden_numbers_is_an_error(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=GOLDEN_FILE):
        verify(folder)
