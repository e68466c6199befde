"""Which device is chosen, and that an accelerator generates what the CPU generates (skipped where there is none)."""

from __future__ import annotations

import pytest
import torch

from device_checks import CONFIGS, LARGEST_DIFFERENCE, SHORT_DTYPES, contrast, difference
from hart.devices import resolve_device

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
