"""Seeds of everything random in training."""

from __future__ import annotations

import torch

from hart.randomness import generator_for, seed_of
from hart.training.task import Microbatch


def test_every_seed_purpose_and_step_has_its_own_numbers() -> None:
    seeds = {seed_of(seed, purpose, step) for seed in range(5) for purpose in ("noise", "points") for step in range(50)}
    assert len(seeds) == 500
    assert torch.equal(*(torch.rand(3, generator=generator_for(1, "noise", 2)) for _ in range(2)))


def test_microbatches_are_rows_of_the_same_numbers() -> None:
    microbatches = [Microbatch(0, 7, 6, rows) for rows in (slice(0, 6), slice(0, 3), slice(3, 6))]
    whole, first, second = (
        microbatch.mine(torch.rand(6, 2, generator=microbatch.generator("x"))) for microbatch in microbatches
    )
    assert torch.equal(whole, torch.cat([first, second]))
