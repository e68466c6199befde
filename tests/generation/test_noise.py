"""Randomness is a function of an image's seed and of nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hart.generation.guidance_and_sampling import Candidates, filtered
from hart.generation.noise import SeededNoise
from helpers import random_tensor

CPU = torch.device("cpu")
ALL = torch.arange(6).unsqueeze(0)


def noise(*seeds: int) -> SeededNoise:
    return SeededNoise(seeds, CPU)


def candidates(images: int, top_k: int | None) -> Candidates:
    return filtered(random_tensor(1, 6, 9).expand(images, -1, -1), top_k, None)


KINDS: dict[str, Callable[[SeededNoise, int], Tensor]] = {
    "gumbel": lambda source, images: torch.stack(source.gumbel(2, ALL, candidates(images, None)), dim=1),
    "gumbel of candidates": lambda source, images: torch.stack(source.gumbel(2, ALL, candidates(images, 4)), dim=1),
    "residual": lambda source, images: source.residual(ALL, 3, 4).transpose(0, 1),
    "order": lambda source, images: source.order(6),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_an_image_has_its_numbers_alone_and_in_any_batch(kind: Callable[[SeededNoise, int], Tensor]) -> None:
    together, turned = kind(noise(3, 2**40, 5), 3), kind(noise(5, 3, 2**40), 3)
    assert torch.equal(together, torch.cat([kind(noise(seed), 1) for seed in (3, 2**40, 5)]))
    assert torch.equal(together[[2, 0, 1]], turned)
    assert not torch.equal(together[0], together[1])


def test_numbers_belong_to_a_token_and_a_code_wherever_they_stand() -> None:
    source, some = noise(1, 2), torch.tensor([[4, 1], [0, 5]])
    everywhere, _ = source.gumbel(3, ALL, candidates(2, None))
    kept = candidates(2, 5)
    assert kept.codes is not None
    assert torch.equal(source.gumbel(3, ALL, kept)[0], everywhere.gather(-1, kept.codes))
    picked = filtered(random_tensor(2, 2, 9), None, None)
    assert torch.equal(source.gumbel(3, some, picked)[0], everywhere.gather(1, some.unsqueeze(-1).expand(-1, -1, 9)))
    residual = source.residual(ALL, 4, 3)
    assert torch.equal(source.residual(some, 4, 3)[:, 1], residual[:, 1, [0, 5]])


def test_purposes_and_scales_share_no_numbers() -> None:
    source = noise(0)
    kinds = [*source.gumbel(0, ALL, candidates(1, None)), *source.gumbel(1, ALL, candidates(1, None))]
    assert len({tuple(kind.flatten().tolist()) for kind in kinds}) == 4
    steps = source.residual(ALL, 3, 4)
    assert len(set(steps.flatten().tolist())) == steps.numel()


def test_an_order_holds_every_position_once() -> None:
    assert noise(0, 1).order(9).sort(dim=1).values.tolist() == [list(range(9))] * 2
