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
        return {"PSNR, dB": torch.tensor([20.0 + len(computed)]), "pooled": torch.ones(2, 1).T}

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


@pytest.mark.parametrize(
    "values",
    [
        {"PSNR": torch.tensor([20.0, 21.0])},
        {"PSNR": torch.tensor([20.0]), "pooled": torch.ones(1, 2)},
        {"PSNR": torch.tensor([20.0, torch.nan]), "pooled": torch.ones(2, 2)},
        {"PSNR": torch.tensor([20.0, 21.0]), "pooled": torch.ones(2, 3)},
    ],
    ids=["a name is missing", "of other pictures", "no number", "another width"],
)
def test_what_is_no_figures_of_these_pictures_is_one_line(tmp_path: Path, values: dict[str, torch.Tensor]) -> None:
    sound = {"PSNR": torch.tensor([20.0, 21.0]), "pooled": torch.ones(2, 2)}
    kept = KeptBatches(tmp_path, {}, {"PSNR", "pooled"})
    kept.of(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), lambda: sound)
    with pytest.raises(HartError, match=r"safetensors: holds no figures of these pictures: delete it"):
        kept.of(torch.ones(2, 3, 2, 2, dtype=torch.uint8), lambda: values)
