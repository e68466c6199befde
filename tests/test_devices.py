"""Which device is chosen, and that an accelerator generates what the CPU generates (skipped where there is none)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

import hart
from device_checks import (
    CONFIGS,
    LARGEST_DIFFERENCE,
    RECORDED,
    SHORT_DTYPES,
    contrast,
    difference,
    noise_difference,
    synchronizations,
)
from hart.devices import MPS_TORCH, convolution_layout, exact_float32, resolve_device, sent
from hart.errors import HartError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")

devices = pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=needs_cuda), pytest.param("mps", marks=needs_mps)], ids=["cuda", "mps"]
)
kinds = pytest.mark.parametrize("kind", CONFIGS)


def test_mps_is_taken_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", TorchVersion(f"{MPS_TORCH}.0"))
    assert resolve_device("mps").type == "mps"
    for cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert resolve_device(None).type == ("cuda" if cuda else "cpu")


def test_mps_of_a_pytorch_that_is_known_to_give_wrong_numbers_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.1"))
    with pytest.raises(
        HartError, match=r"torch 2\.12\.1 gives wrong numbers .*; install torch 2\.13 or later, or choose cpu"
    ):
        resolve_device("mps")


def test_an_apple_gpu_is_given_copies_that_have_arrived_and_weights_in_their_usual_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def moved(tensor: torch.Tensor, device: torch.device, *, non_blocking: bool) -> Any:
        return device.type, non_blocking

    monkeypatch.setattr(torch.Tensor, "to", moved)
    assert [sent(torch.ones(1), torch.device(name)) for name in ("mps", "meta")] == [("mps", False), ("meta", True)]
    assert convolution_layout(torch.device("mps")) == torch.contiguous_format
    assert convolution_layout(torch.device("cuda")) == torch.channels_last


@pytest.mark.parametrize(
    ("word", "places"),
    [
        ("non_blocking", {"devices.py", "training/progress.py"}),
        ("torch.channels_last", {"devices.py", "tokenizer/tiling.py"}),
    ],
)
def test_one_function_decides_what_an_apple_gpu_needs(word: str, places: set[str]) -> None:
    """Elsewhere it would be forgotten, and the numbers wrong without an error."""
    code = Path(hart.__file__).parent
    assert {str(file.relative_to(code)) for file in code.rglob("*.py") if word in file.read_text("utf-8")} == places


def test_float32_is_exact_whatever_was_asked_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> list[str]:
        backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends
        return [backend.fp32_precision for backend in backends]  # type: ignore[attr-defined]

    for everywhere in (settings()[-1], "tf32"):
        monkeypatch.setattr(torch.backends, "fp32_precision", everywhere)
        before = settings()
        with exact_float32():
            assert settings() == ["ieee", "ieee", everywhere]
        assert settings() == before


@kinds
@devices
def test_a_device_generates_the_images_of_the_cpu(device: str, kind: str) -> None:
    assert difference(kind, device) < LARGEST_DIFFERENCE


@kinds
@needs_cuda
@pytest.mark.parametrize("speed", RECORDED)
def test_recorded_scales_generate_the_images_of_the_cpu(kind: str, speed: str) -> None:
    assert difference(kind, "cuda", speed=RECORDED[speed]) < LARGEST_DIFFERENCE


@kinds
@devices
@pytest.mark.parametrize("dtype", SHORT_DTYPES)
def test_a_device_draws_in_short_number_types(device: str, kind: str, dtype: str) -> None:
    assert contrast(kind, device, dtype) > 0


@kinds
@needs_cuda
def test_the_host_waits_for_nothing_between_text_and_pixels(kind: str) -> None:
    assert synchronizations(kind) == []


@devices
def test_random_numbers_are_the_same_on_a_device(device: str) -> None:
    assert noise_difference(device) < 1e-4
