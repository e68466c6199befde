"""Which device is chosen, and that an accelerator generates what the CPU generates (skipped where there is none)."""

from __future__ import annotations

import pytest
import torch

from device_checks import CONFIGS, LARGEST_DIFFERENCE, SHORT_DTYPES, contrast, difference, synchronizations
from hart.devices import resolve_device
from hart.generation.noise import SeededNoise

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")

devices = pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=needs_cuda), pytest.param("mps", marks=needs_mps)], ids=["cuda", "mps"]
)
kinds = pytest.mark.parametrize("kind", CONFIGS)


def test_mps_is_taken_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps").type == "mps"
    for cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert resolve_device(None).type == ("cuda" if cuda else "cpu")


@kinds
@devices
def test_a_device_generates_the_images_of_the_cpu(device: str, kind: str) -> None:
    assert difference(kind, device) < LARGEST_DIFFERENCE


@kinds
@devices
@pytest.mark.parametrize("dtype", SHORT_DTYPES)
def test_a_device_draws_in_short_number_types(device: str, kind: str, dtype: str) -> None:
    assert contrast(kind, device, dtype) > 0


@kinds
@needs_cuda
def test_the_host_waits_for_nothing_between_text_and_pixels(kind: str) -> None:
    assert synchronizations(kind) == []


@needs_cuda
def test_random_numbers_are_the_same_on_a_gpu() -> None:
    positions = torch.arange(50).unsqueeze(0)
    found = {
        device: SeededNoise([3, 2**62], torch.device(device)).residual(positions.to(device), 5, 4).cpu()
        for device in ("cpu", "cuda")
    }
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-5, atol=1e-5)
    keys = [SeededNoise([3, 2**62], torch.device(device)).keys[0].cpu() for device in ("cpu", "cuda")]
    assert torch.equal(*keys)
