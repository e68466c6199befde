"""Filters, sampling and mixing against plain Python and against the probabilities themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hart.generation.logits import filtered, guided, gumbel_mixture, gumbel_temperature, sample, top_k_at
from helpers import random_tensor

# Distinct by more than rounding, so that the order of the codes is certain.
distinct_logits = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(
    lambda numbers: [n / 8 for n in numbers]
)


def naive_kept(logits: list[float], top_k: int | None, top_p: float | None) -> set[int]:
    """The codes that both filters leave, by sorting and adding up."""
    ordered = sorted(range(len(logits)), key=lambda i: -logits[i])[:top_k]
    if top_p is None:
        return set(ordered)
    weights = [math.exp(logits[i]) for i in ordered]
    kept, mass = set(), 0.0
    for i, weight in zip(ordered, weights, strict=True):
        if mass >= top_p * sum(weights):
            break
        kept.add(i)
        mass += weight
    return kept


@given(logits=distinct_logits, top_k=st.none() | st.integers(1, 14), top_p=st.none() | st.floats(0.05, 0.99))
def test_filters_keep_what_they_should(logits: list[float], top_k: int | None, top_p: float | None) -> None:
    given_logits = torch.tensor([logits, logits[::-1]])
    result = filtered(given_logits, top_k, top_p)
    for row, values in zip(result, (logits, logits[::-1]), strict=True):
        kept = {i for i, value in enumerate(row.tolist()) if value > -math.inf}
        # a sum that hits top_p to the last digit may fall either way
        near = [None] if top_p is None else [top_p, top_p - 1e-6, top_p + 1e-6]
        assert kept in [naive_kept(values, top_k, p) for p in near]
        assert all(row[i] == values[i] for i in kept)
    assert given_logits.isfinite().all(), "the caller's logits must stay as they are"


def test_nothing_is_filtered_when_nothing_is_asked() -> None:
    logits = random_tensor(2, 3, 8)
    assert torch.equal(filtered(logits, None, None), logits)
    assert torch.equal(filtered(logits, 8, 1.0), logits)
    assert (filtered(logits, 1, None).isfinite().sum(dim=-1) == 1).all()
    assert (filtered(logits, None, 1e-9).isfinite().sum(dim=-1) == 1).all()


def test_late_scales_keep_half_of_the_codes() -> None:
    assert [top_k_at(k, 600) for k in (0, 6, 7, 13)] == [600, 600, 300, 300]
    assert top_k_at(9, 1) == 1
    assert top_k_at(9, None) is None


def test_guidance_extrapolates() -> None:
    conditional, unconditional = random_tensor(3, seed=1), random_tensor(3, seed=2)
    assert torch.equal(guided(conditional, unconditional, 0.0), conditional)
    torch.testing.assert_close(guided(conditional, unconditional, 2.0), 3 * conditional - 2 * unconditional)


def test_samples_have_the_frequencies_of_the_probabilities() -> None:
    logits = filtered(2 * random_tensor(1, 1, 10), 7, None)
    samples = 20_000
    uniform = torch.rand((1, samples), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(sample(logits.expand(1, samples, -1), uniform).flatten(), minlength=10)
    probabilities = logits.double().softmax(dim=-1).flatten()
    out = probabilities == 0
    assert out.sum() == 3
    assert not counts[out].any()
    chi_square = ((counts - samples * probabilities)[~out].square() / (samples * probabilities[~out])).sum()
    assert chi_square < 22.5  # 6 degrees of freedom: exceeded once in 1,000


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-24])
def test_codes_that_are_filtered_out_are_never_drawn(number: float) -> None:
    logits = torch.tensor([[[-torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]]])
    assert sample(logits, torch.tensor([[number]])).item() in (1, 3)


def test_a_number_decides_by_inverting_the_distribution_function() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().view(1, 1, 3).expand(1, 5, 3)
    assert sample(logits, torch.tensor([[0.05, 0.15, 0.29, 0.31, 0.99]])).tolist() == [[0, 1, 1, 2, 2]]


@pytest.mark.parametrize(("ratio", "temperature"), [(0.0, 0.27), (0.5, 0.14175), (1.0, 0.0135)])
def test_mixing_grows_sharper_with_the_scales(ratio: float, temperature: float) -> None:
    assert gumbel_temperature(ratio) == pytest.approx(temperature)
    logits, gumbel, codebook = random_tensor(2, 3, 8), random_tensor(2, 3, 8, seed=1), random_tensor(8, 4, seed=2)
    weights = (((1 + ratio) * logits + gumbel) / temperature).softmax(dim=-1)
    torch.testing.assert_close(gumbel_mixture(logits, gumbel, ratio, codebook), weights @ codebook)


def test_filtered_codes_stay_out_of_the_mixture() -> None:
    logits, codebook = filtered(random_tensor(1, 4, 8), 1, None), random_tensor(8, 4, seed=2)
    mixture = gumbel_mixture(logits, torch.zeros_like(logits), 0.0, codebook)
    torch.testing.assert_close(mixture, codebook[logits.argmax(dim=-1)])
