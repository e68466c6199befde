"""Random numbers as a function: the published values, and what random numbers should look like."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hart.generation.threefry import gumbel, key_of, normal, threefry, uniform

# Threefry-2x32, 20 rounds: two words of the counter, two of the key, two of the result (Random123, kat_vectors).
KNOWN = [
    "00000000 00000000 00000000 00000000 6b200159 99ba4efe",
    "ffffffff ffffffff ffffffff ffffffff 1cb996fc bb002be7",
    "243f6a88 85a308d3 13198a2e 03707344 c4923a9c 483df7a0",
]


def words(line: str) -> list[Tensor]:
    return [torch.tensor([int(word, 16)]).int() for word in line.split()]


@pytest.mark.parametrize("line", KNOWN)
def test_words_are_the_published_ones(line: str) -> None:
    *counter, low, high, first, second = words(line)
    assert threefry((low, high), (counter[0], counter[1])) == (first, second)


def test_a_seed_is_a_key_of_two_words() -> None:
    low, high = key_of(torch.tensor([3, 2**40 + 5, 2**63 - 1, 2**31]))
    assert low.tolist() == [3, 5, -1, -(2**31)]
    assert high.tolist() == [0, 256, 2**31 - 1, 0]


def numbers(seed: int, rows: int = 300, columns: int = 400) -> tuple[Tensor, Tensor]:
    """Words of rows x columns counters, as of tokens and codes."""
    low, high = key_of(torch.tensor(seed))
    return threefry(
        (low, high),
        (torch.arange(rows, dtype=torch.int32).unsqueeze(1), torch.arange(columns, dtype=torch.int32)),
    )


def test_uniform_numbers_fill_their_interval_evenly() -> None:
    found = uniform(numbers(0)[0])
    assert 0 < found.min() < 1e-4 and 1 - 1e-4 < found.max() < 1
    counts = (found * 64).long().flatten().bincount(minlength=64).double()
    expected = found.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 104  # 63 degrees of freedom: exceeded once in 1,000
    ends = uniform(torch.tensor([0, -1], dtype=torch.int32))
    assert ends.tolist() == [2**-24, 1 - 2**-24]


def moments(values: Tensor) -> list[float]:
    values = values.double().flatten()
    deviation = values.std()
    around = (values - values.mean()) / deviation
    return [float(x) for x in (values.mean(), deviation, around.pow(3).mean(), around.pow(4).mean())]


def test_numbers_have_the_moments_of_their_distribution() -> None:
    one, other = numbers(1)
    skewness = 1.1395470994  # of Gumbel's distribution
    wanted = [0.5772156649, math.pi / math.sqrt(6), skewness, 5.4]
    assert moments(gumbel(one)) == pytest.approx(wanted, rel=0.05, abs=0.02)
    for values in normal((one, other)):
        assert moments(values) == pytest.approx([0, 1, 0, 3], abs=0.06)
    assert gumbel(torch.tensor([0, -1], dtype=torch.int32)).isfinite().all()
