"""Suite `agreement`: ranks by the nearest image of a concept, and what chance gives."""

from __future__ import annotations

import itertools

import pytest
import torch

from hart_emoji.suites.agreement import chance_of_rank, concept_ranks


def random_tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rank_is_by_the_nearest_image_of_each_concept() -> None:
    generated, bank = random_tensor(6, 5, seed=1), random_tensor(12, 5, seed=2)
    concept, accepted = torch.arange(12) % 4, [(0,), (1, 2), (2,), (3, 0), (0,), (1,)]
    ranks = concept_ranks(generated, bank, concept, accepted, 4)
    for row in range(6):
        cosine = torch.nn.functional.cosine_similarity(generated[row], bank, dim=1)
        best = [float(cosine[concept == number].max()) for number in range(4)]
        order = sorted(range(4), key=lambda number: -best[number])
        assert int(ranks[row]) == min(order.index(right) for right in accepted[row]) + 1


def test_an_image_of_the_set_has_rank_one() -> None:
    bank = random_tensor(8, 5, seed=3)
    assert concept_ranks(3 * bank, bank, torch.arange(8), [(n,) for n in range(8)], 8).tolist() == [1] * 8


@pytest.mark.parametrize(("top", "accepted"), [(1, 1), (2, 2), (3, 4), (5, 1), (6, 2)])
def test_chance_is_the_share_of_random_orders(top: int, accepted: int) -> None:
    orders = list(itertools.permutations(range(6)))
    hits = sum(any(number < accepted for number in order[:top]) for order in orders)
    assert chance_of_rank(top, accepted, 6) == pytest.approx(hits / len(orders))
