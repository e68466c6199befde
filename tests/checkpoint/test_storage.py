"""Weights on disk: exact, strict, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import nn

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.storage import (
    WEIGHT_TYPES,
    fill_module,
    fill_state,
    load_state,
    read_safetensors,
    save_module,
    write_safetensors,
)
from hart.devices import without_memory
from hart.files import PARTIAL
from helpers import randomize, same_weights


def network(seed: int = 0, width: int = 4) -> nn.Sequential:
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    randomize(module, seed)
    return module


def test_a_module_comes_back_exactly(tmp_path: Path) -> None:
    saved, loaded = network(0), network(1)
    save_module(tmp_path / "new folder" / "m.safetensors", saved)
    fill_module(loaded, tmp_path / "new folder" / "m.safetensors", torch.float32)
    assert same_weights(saved, loaded)


def test_tied_weights_are_stored_twice(tmp_path: Path) -> None:
    one = torch.arange(6.0)
    write_safetensors(tmp_path / "tied.safetensors", {"a": one, "b": one, "c": one[2:]})
    stored = read_safetensors(tmp_path / "tied.safetensors")
    assert [stored[name].tolist() for name in "abc"] == [one.tolist(), one.tolist(), one[2:].tolist()]


def test_half_precision_is_for_numbers_with_a_point_only(tmp_path: Path) -> None:
    saved = network()
    save_module(tmp_path / "m.safetensors", saved, torch.float16)
    state = read_safetensors(tmp_path / "m.safetensors")
    assert state["0.weight"].dtype == torch.float16
    assert state["1.num_batches_tracked"].dtype == torch.int64
    loaded = network(1)
    fill_module(loaded, tmp_path / "m.safetensors", torch.float32)
    torch.testing.assert_close(loaded[0].weight, saved[0].weight, rtol=1e-3, atol=1e-4)


def test_files_are_those_of_the_library(tmp_path: Path) -> None:
    values = torch.tensor([[0, 1, 2], [3, 4, 250]])
    tensors = {
        f"a {dtype}": values.to(dtype)
        for dtype in (*WEIGHT_TYPES, torch.float8_e4m3fn, torch.int64, torch.int8, torch.uint8, torch.bool)
    }
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "transposed": values.T, "é": torch.ones(1)}
    write_safetensors(tmp_path / "m.safetensors", tensors)
    content = (tmp_path / "m.safetensors").read_bytes()
    for loaded in (load(content), read_safetensors(tmp_path / "m.safetensors")):
        assert same_weights(loaded, tensors)
        assert all(value.dtype == tensors[name].dtype for name, value in loaded.items())
    (tmp_path / "usual").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("0.bias"), r"m\.safetensors: does not fit.*missing 0\.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda s: s.update({"2.weight": torch.zeros(2, 5)}),
            r"2\.weight is \(2, 5\), the model takes \(2, 4\)",
        ),
    ],
    ids=["missing", "unexpected", "misshaped"],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_changes(damage: Any, message: str) -> None:
    state, module = dict(network(0).state_dict()), network(1)
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        load_state(module, state, "folder/m.safetensors")
    assert same_weights(module, network(1))


def test_many_faults_are_counted() -> None:
    with pytest.raises(CheckpointError, match=r"missing 0\.weight.*; and \d+ more"):
        load_state(network(), {f"odd{i}": torch.zeros(1) for i in range(20)}, "file")


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_module(path, network())
    content = path.read_bytes()
    for length in (0, 4, 8, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"m\.safetensors: not a readable safetensors file"):
            read_safetensors(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_without_memory_is_filled_in_the_asked_type(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = network()
    save_module(tmp_path / "m.safetensors", saved, torch.bfloat16)
    with without_memory():
        from_file, from_state = network(), network()
    assert all(tensor.is_meta for tensor in from_file.state_dict().values())
    fill_module(from_file, tmp_path / "m.safetensors", dtype)
    state = read_safetensors(tmp_path / "m.safetensors")
    fill_state(from_state, state, dtype, "m.safetensors")
    assert not state
    wanted = {name: v.to(torch.bfloat16).to(dtype) for name, v in saved.state_dict().items() if v.is_floating_point()}
    for filled in (from_file, from_state):
        assert all(torch.equal(value, filled.state_dict()[name]) for name, value in wanted.items())
        assert {p.dtype for p in filled.parameters()} == {dtype}
        assert filled.state_dict()["1.num_batches_tracked"].dtype == torch.int64
        assert all(p.requires_grad for p in filled.parameters())
    with pytest.raises(CheckpointError, match=r"m\.safetensors: does not fit.*0\.weight is \(4, 3\)"):
        fill_module(network(width=5), tmp_path / "m.safetensors", dtype)


def test_weights_that_stay_in_their_file_are_the_modules_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, saved = tmp_path / "m.safetensors", network()
    save_module(file, saved)
    taken = sum(value.nbytes for name, value in saved.state_dict().items() if not name.startswith("0."))
    monkeypatch.setattr("hart.devices.free_memory", lambda _: taken)  # those of "0" take none
    with without_memory():
        module = network()
    fill_module(module, file, None, mapped="0")
    save_module(file, network(5))  # in the place of the old file, which lives on for those that read it
    assert same_weights(module, saved)
    with torch.no_grad():
        module[0].weight.zero_()
    monkeypatch.undo()
    untouched = network()
    fill_module(untouched, file, torch.float32)
    assert same_weights(untouched, network(5))


def test_filled_weights_share_no_memory() -> None:
    """A pickle may hold one tensor under two names, and parts of a larger one."""
    whole = torch.arange(100.0)
    state = {"0.weight": whole[:12].view(4, 3), "0.bias": torch.ones(4), "2.weight": torch.ones(2, 4)}
    state["2.bias"] = state["0.bias"][:2]
    with without_memory():
        module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    fill_state(module, state, torch.float32, "file")
    with torch.no_grad():
        module[0].bias.zero_()
        whole.zero_()
    assert module[2].bias.tolist() == [1, 1]
    assert module[0].weight.flatten().tolist() == list(range(12))


def test_all_that_a_killed_process_leaves_is_marked_as_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Path] = []

    def killed(tensors: object, path: Path, metadata: object) -> None:
        path.with_name("of the library").touch()
        left.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("hart.checkpoint.storage.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "m.safetensors", {})
    assert {path.suffix for path in left} == {PARTIAL}
    assert not any(tmp_path.iterdir())
