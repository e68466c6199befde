"""Suite `agreement`: the rank of a concept is by the nearest of its pictures."""

from __future__ import annotations

import torch

from hart.evaluation.agreement import nearest_concept_ranks
from helpers import random_tensor


def test_rank_is_by_the_nearest_picture_of_each_concept() -> None:
    drawn, bank = random_tensor(6, 5, seed=1), random_tensor(12, 5, seed=2)
    concept, wanted = torch.arange(12) % 4, torch.tensor([0, 1, 2, 3, 0, 1])
    ranks = nearest_concept_ranks(drawn, bank, concept, wanted)
    for row in range(6):
        cosine = torch.nn.functional.cosine_similarity(drawn[row], bank, dim=1)
        best = [float(cosine[concept == number].max()) for number in range(4)]
        order = sorted(range(4), key=lambda number: -best[number])
        assert int(ranks[row]) == order.index(int(wanted[row])) + 1


def test_a_picture_of_the_set_has_rank_one() -> None:
    bank = random_tensor(8, 5, seed=3)
    assert nearest_concept_ranks(3 * bank, bank, torch.arange(8), torch.arange(8)).tolist() == [1] * 8
