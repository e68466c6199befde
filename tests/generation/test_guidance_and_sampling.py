"""Filters, sampling and mixing against plain Python and against the probabilities themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hart.generation.guidance_and_sampling import (
    Candidates,
    filtered,
    guided,
    gumbel_mixture,
    gumbel_temperature,
    sample,
    sample_by_gumbel,
)
from hart.generation.threefry import gumbel, key_of, threefry, uniform
from helpers import random_tensor

# Distinct by more than rounding, so that the order of the codes is certain.
distinct_logits = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(
    lambda numbers: [n / 8 for n in numbers]
)


def kept(candidates: Candidates) -> list[list[set[int]]]:
    """The codes that the filters leave to each token of each image."""
    allowed = candidates.logits > -math.inf
    codes = torch.arange(allowed.shape[-1]).expand(allowed.shape) if candidates.codes is None else candidates.codes
    return [[set(c[a].tolist()) for c, a in zip(*rows, strict=True)] for rows in zip(codes, allowed, strict=True)]


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
    given_logits = torch.tensor([[logits, logits[::-1]]])
    candidates = filtered(given_logits, top_k, top_p)
    for place, values in enumerate((logits, logits[::-1])):
        found = kept(candidates)[0][place]
        # a sum that hits top_p to the last digit may fall either way
        near = [None] if top_p is None else [top_p, top_p - 1e-6, top_p + 1e-6]
        assert found in [naive_kept(values, top_k, p) for p in near]
        for at, value in enumerate(candidates.logits[0, place].tolist()):
            code = int(candidates.at(torch.full((1, 2), at))[0, place])
            assert value in (values[code], -math.inf)


def test_nothing_is_filtered_when_nothing_is_asked() -> None:
    logits = random_tensor(2, 3, 8)
    assert filtered(logits, None, None).codes is None
    assert torch.equal(filtered(logits, 8, None).logits, logits)
    one = [[{int(best)} for best in row] for row in logits.argmax(dim=-1)]
    assert kept(filtered(logits, 1, None)) == kept(filtered(logits, None, 1e-9)) == one


def test_every_image_has_its_own_filters() -> None:
    logits = random_tensor(3, 4, 9)
    top_k, top_p = (2, 9, 5), (math.inf, 0.5, 0.8)
    rows = [torch.tensor(values).view(3, 1, 1) for values in (top_k, top_p)]
    together = kept(filtered(logits, 9, rows[1], rows[0]))
    alone = [filtered(logits[i : i + 1], top_k[i], None if i == 0 else top_p[i]) for i in range(3)]
    assert together == [kept(one)[0] for one in alone]


def test_guidance_extrapolates() -> None:
    conditional, unconditional = random_tensor(2, 3, 4, seed=1), random_tensor(2, 3, 4, seed=2)
    strength = torch.tensor([0.0, 2.0]).view(2, 1, 1)
    found = guided(conditional, unconditional, (1 + strength, strength))
    assert torch.equal(found[0], conditional[0]), "without guidance nothing changes"
    torch.testing.assert_close(found[1], 3 * conditional[1] - 2 * unconditional[1])


@pytest.mark.parametrize("by_gumbel", [False, True])
def test_samples_have_the_frequencies_of_the_probabilities(by_gumbel: bool) -> None:
    logits, samples = 2 * random_tensor(1, 1, 10), 20_000
    candidates = filtered(logits.expand(1, samples, -1), 7, None)
    places = torch.arange(samples, dtype=torch.int32).view(1, -1, 1)
    words, _ = threefry(key_of(torch.tensor(0)), (places, torch.arange(7, dtype=torch.int32)))
    codes = sample_by_gumbel(candidates, gumbel(words)) if by_gumbel else sample(candidates, uniform(words[..., 0]))
    counts = torch.bincount(codes.flatten(), minlength=10)
    probabilities = torch.zeros(10).double()
    assert candidates.codes is not None
    probabilities[candidates.codes[0, 0]] = candidates.logits[0, 0].double().softmax(dim=-1)
    out = probabilities == 0
    assert out.sum() == 3
    assert not counts[out].any()
    chi_square = ((counts - samples * probabilities)[~out].square() / (samples * probabilities[~out])).sum()
    assert chi_square < 22.5  # 6 degrees of freedom: exceeded once in 1,000


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-24])
def test_codes_that_are_filtered_out_are_never_drawn(number: float) -> None:
    logits = torch.tensor([[[-torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]]])
    assert sample(Candidates(logits, None), torch.tensor([[number]])).item() in (1, 3)


@pytest.mark.parametrize(("ratio", "temperature"), [(0.0, 0.27), (0.5, 0.14175), (1.0, 0.0135)])
def test_mixing_grows_sharper_with_the_scales(ratio: float, temperature: float) -> None:
    assert gumbel_temperature(ratio) == pytest.approx(temperature)
    logits, noise, codebook = random_tensor(2, 3, 8), random_tensor(2, 3, 8, seed=1), random_tensor(8, 4, seed=2)
    weights = (((1 + ratio) * logits + noise) / temperature).softmax(dim=-1)
    mixture = gumbel_mixture(Candidates(logits, None), noise, ratio, codebook)
    torch.testing.assert_close(mixture, weights @ codebook)
    # the same in the order of the logits
    candidates = filtered(logits, 8, 2.0)
    assert candidates.codes is not None
    sorted_mixture = gumbel_mixture(candidates, noise.gather(-1, candidates.codes), ratio, codebook)
    torch.testing.assert_close(sorted_mixture, mixture)


def test_filtered_codes_stay_out_of_the_mixture() -> None:
    logits, codebook = random_tensor(1, 4, 8), random_tensor(8, 4, seed=2)
    candidates = filtered(logits, 3, None, torch.ones(1, 1, 1))
    mixture = gumbel_mixture(candidates, torch.zeros_like(candidates.logits), 0.0, codebook)
    torch.testing.assert_close(mixture, codebook[logits.argmax(dim=-1)])
