"""Numbers of batches are computed once for the same pictures and facts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hart.errors import HartError
from hart.evaluation.kept_batches import KeptBatches


def test_kept_for_the_same_pictures_and_facts_only(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute() -> dict[str, torch.Tensor]:
        computed.append(len(computed))
        return {"PSNR, dB": torch.tensor([20.0 + len(computed)]), "pooled": torch.ones(3, 2).T}

    pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    first = KeptBatches(tmp_path, {"scales": [1, 2]}).of(pixels, compute)
    again = KeptBatches(tmp_path, {"scales": [1, 2]}).of(pixels, compute)
    assert computed == [0] and first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    KeptBatches(tmp_path, {"scales": [1, 3]}).of(pixels, compute)
    KeptBatches(tmp_path, {"scales": [1, 2]}).of(pixels + 1, compute)
    KeptBatches(tmp_path, {"scales": [1, 2]}).of(pixels.view(1, 3, 1, 4), compute)
    assert computed == [0, 1, 2, 3]
    for file in tmp_path.iterdir():
        file.write_bytes(b"cut off")
    with pytest.raises(HartError, match=str(tmp_path)):
        KeptBatches(tmp_path, {"scales": [1, 2]}).of(pixels, compute)
