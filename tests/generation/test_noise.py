"""Randomness comes from the images' own generators and from nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hart.generation.noise import GeneratorNoise
from helpers import random_tensor

CPU = torch.device("cpu")


def generator_noise(*seeds: int) -> GeneratorNoise:
    return GeneratorNoise([torch.Generator().manual_seed(seed) for seed in seeds], CPU)


KINDS: dict[str, Callable[[GeneratorNoise], Tensor]] = {
    "codes": lambda d: d.codes(random_tensor(1, 6, 9).expand(len(d.generators), -1, -1)),
    "gumbel": lambda d: d.gumbel(torch.zeros(len(d.generators), 6, 9)),
    "start_noise": lambda d: d.start_noise(6, 3),
    "step_noise": lambda d: d.step_noise(6, 3),
    "order": lambda d: d.order(6),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_an_image_draws_the_same_alone_and_in_a_batch(kind: Callable[[GeneratorNoise], Tensor]) -> None:
    together = generator_noise(3, 4, 5)
    alone = [generator_noise(seed) for seed in (3, 4, 5)]
    for _ in range(2):
        assert torch.equal(kind(together), torch.cat([kind(d) for d in alone]))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_global_generator_has_no_say(kind: Callable[[GeneratorNoise], Tensor]) -> None:
    torch.manual_seed(1)
    first = kind(generator_noise(8))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(kind(generator_noise(8)), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_gumbel_noise_has_its_mean_and_spread_and_is_finite() -> None:
    noise = generator_noise(0).gumbel(torch.zeros(1, 200, 200))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.05)


def test_an_order_holds_every_position_once() -> None:
    assert generator_noise(0, 1).order(9).sort(dim=1).values.tolist() == [list(range(9))] * 2


def test_no_generator_is_an_error() -> None:
    with pytest.raises(ValueError, match="one for each image"):
        GeneratorNoise([], CPU)
