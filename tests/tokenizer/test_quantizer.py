"""The multi-scale quantiser: identities over any schedule, and its oddities against what was published."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hart.grids import Grid, ScaleSchedule
from hart.tokenizer.quantizer import (
    Corruption,
    MultiScaleQuantizer,
    next_scale_input,
    pool,
    shared_phi_table,
    to_map,
)
from helpers import CHANNELS, CODES, random_tensor, randomize, without_gradient
from strategies import schedules

TINY = ScaleSchedule.square((1, 2, 3, 4))


def quantizer(seed: int = 0) -> MultiScaleQuantizer:
    module = MultiScaleQuantizer(CODES, CHANNELS, 4, 0.5)
    randomize(module, seed)
    return module


def latent_for(schedule: ScaleSchedule, seed: int = 0) -> torch.Tensor:
    return random_tensor(2, CHANNELS, *schedule.final, seed=seed)


@pytest.mark.parametrize(
    ("scales", "table"),
    [
        (5, (0, 1, 2, 2, 3)),
        (7, (0, 0, 1, 2, 2, 3, 3)),
        (10, (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)),
        (14, (0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3)),
    ],
)
def test_shared_phi_follow_the_published_tables(scales: int, table: tuple[int, ...]) -> None:
    assert shared_phi_table(scales, 4) == table


@pytest.mark.parametrize("shared", [1, 2, 3, 6])
def test_any_number_of_phi_is_spread_over_the_scales(shared: int) -> None:
    table = shared_phi_table(12, shared)
    assert set(table) == set(range(shared))
    assert list(table) == sorted(table)


def test_other_numbers_of_phi_than_four_are_at_the_middles_of_equal_parts() -> None:
    assert shared_phi_table(17, 3) == (0,) * 6 + (1,) * 5 + (2,) * 6


@given(schedule=schedules, seed=st.integers(0, 99))
def test_the_contributions_of_all_codes_are_the_quantised_latent(schedule: ScaleSchedule, seed: int) -> None:
    module = quantizer(seed)
    result = module.encode(latent_for(schedule, seed), schedule)
    assert [index.shape for index in result.indices] == [(2, n) for n in schedule.token_counts]
    contributions = [module.contribution(module.codebook(index), k, schedule) for k, index in enumerate(result.indices)]
    torch.testing.assert_close(sum(contributions), result.latent, rtol=1e-5, atol=1e-5)


@given(schedule=schedules, seed=st.integers(0, 99))
def test_codes_and_the_exact_residual_are_the_latent(schedule: ScaleSchedule, seed: int) -> None:
    """The basis of hybrid tokens: without phi at the last scale, codes plus residual lose nothing."""
    module = quantizer(seed)
    latent = latent_for(schedule, seed)
    result = module.encode(latent, schedule)
    coarse = result.partial_sums[-2]
    torch.testing.assert_close(coarse + result.last_residual, latent, rtol=0, atol=1e-5)
    last_codes = module.codebook(result.indices[-1])
    residual = result.last_residual.flatten(2).transpose(1, 2) - last_codes
    torch.testing.assert_close(coarse + to_map(last_codes + residual, schedule.final), latent, rtol=0, atol=1e-5)


@given(schedule=schedules, seed=st.integers(0, 99))
def test_every_position_takes_the_nearest_code_of_the_pooled_residual(schedule: ScaleSchedule, seed: int) -> None:
    module = quantizer(seed)
    latent = latent_for(schedule, seed)
    result = module.encode(latent, schedule)
    sums = [torch.zeros_like(latent), *result.partial_sums]
    for k, grid in enumerate(schedule):
        pooled = F.adaptive_avg_pool2d(latent - sums[k], grid).flatten(2).transpose(1, 2)
        distances = torch.cdist(pooled.double(), module.codebook.weight.double().expand(2, -1, -1))
        chosen = distances.gather(2, result.indices[k].unsqueeze(2)).squeeze(2)
        torch.testing.assert_close(chosen, distances.amin(dim=2), rtol=1e-5, atol=1e-5)


def test_the_first_of_equal_codes_is_taken() -> None:
    module = quantizer()
    module.codebook.weight.data[7] = module.codebook.weight.data[3]
    assert module.nearest(module.codebook.weight.data[[7]]).tolist() == [3]


@given(height=st.integers(1, 40), width=st.integers(1, 40), data=st.data())
def test_pooling_is_area_interpolation(height: int, width: int, data: st.DataObject) -> None:
    grid = Grid(data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    x = random_tensor(2, CHANNELS, height, width, seed=width)
    torch.testing.assert_close(pool(x, grid), F.interpolate(x, size=grid, mode="area"), rtol=1e-5, atol=1e-6)


def test_loss_is_the_mean_over_scales_of_codebook_and_commitment_terms() -> None:
    module, latent = quantizer(), latent_for(TINY).requires_grad_()
    result = module.encode(latent, TINY)
    expected = sum(1.25 * (partial - latent).square().mean() for partial in result.partial_sums) / 4
    loss = module.loss(result, latent, 0.25)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    # only the commitment share pulls the latent, only the other one the codes and phi
    pull = sum(0.25 * 2 * (latent - partial) / latent.numel() for partial in result.partial_sums) / 4
    torch.testing.assert_close(latent.grad, pull.detach())
    assert not without_gradient(module)


def test_a_latent_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ends at \(4, 4\)"):
        quantizer().encode(random_tensor(1, CHANNELS, 5, 5), TINY)


def test_wrong_codes_stand_in_the_sum_and_the_targets_correct_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.tokenizer.quantizer.NEAR", 4)
    schedule = ScaleSchedule.square((1, 2, 4))
    latent = torch.randn(64, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    quantizer = MultiScaleQuantizer(16, 4, 2, 0.5)
    right = quantizer.encode(latent, schedule)
    rates = torch.full((64, 1), 0.9)
    rates[:8] = 0
    wrong = quantizer.encode(latent, schedule, Corruption(rates, torch.Generator().manual_seed(2), slice(None)))
    changed = (wrong.partial_sums[0] != right.partial_sums[0]).flatten(1).any(dim=1)
    assert changed.any()
    assert not changed[8:].all()
    assert not changed[:8].any(), "each image has its own share"
    part = Corruption(rates, torch.Generator().manual_seed(2), slice(8, 24))
    alone = quantizer.encode(latent[8:24], schedule, part)
    assert torch.equal(alone.indices[1], wrong.indices[1][8:24]), "whatever is coded together"
    assert torch.equal(wrong.indices[0], right.indices[0])
    residual = latent - wrong.partial_sums[0]
    assert torch.equal(wrong.indices[1], quantizer.nearest(next_scale_input(residual, Grid(2, 2))))
    assert torch.allclose(wrong.last_residual, latent - wrong.partial_sums[1])
