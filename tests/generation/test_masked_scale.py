"""A masked last scale: every MaskGIT step sees the codes of those before it, the residual diffusion those of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hart.config import ConfigError, SamplingConfig
from hart.generation.edits import BatchEdits, ImageEdit
from hart.generation.next_scale import NextScaleGenerator, ScaleState
from hart.generation.noise import SeededNoise
from hart.losses.transformer_loss import sample_given, with_given
from hart.tokenizer.quantizer import to_map
from hart.types import TokenMaps
from helpers import CHANNELS, alone, random_context, random_image, tiny_class_config, tiny_model, tiny_text_config

MASKED = tiny_text_config(masked_last_scale=True)
SETTINGS = SamplingConfig(guidance_scale=0.0, gumbel_smoothing=False, maskgit_steps=3)
TOKENS = MASKED.transformer.schedule.final.tokens


def states(seeds: Sequence[int], settings: SamplingConfig = SETTINGS, **asked: Any) -> list[ScaleState]:
    tokenizer, hart = tiny_model(MASKED)
    noise = SeededNoise(seeds, torch.device("cpu"))
    context = random_context(MASKED, 2)
    context = context if len(seeds) == 2 else alone(context, seeds[0])
    return list(NextScaleGenerator(hart, tokenizer.quantizer, settings, noise, **asked).states(context))


def trained_pass(found: Sequence[ScaleState], given: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and hidden states of the last scale by the training pass, with codes (B, N) given, -1 where none is."""
    tokenizer, hart = tiny_model(MASKED)
    schedule, codes = MASKED.transformer.schedule, [state.steps[0].codes for state in found[:-1]]
    with torch.no_grad():
        unknown = torch.zeros_like(given)
        maps = tokenizer.token_maps_from_codes([*codes, unknown], torch.zeros(2, TOKENS, CHANNELS), schedule)
        maps = with_given(maps, given >= 0, given, tokenizer.quantizer.codebook, 0.5)
        output = hart(random_context(MASKED, 2), maps)
        return output.logits[:, -TOKENS:], output.hidden


def test_each_step_predicts_as_in_training_given_the_codes_before_it() -> None:
    found = states([0, 1])
    given = torch.full((2, TOKENS), -1)
    for step in found[-1].steps:
        assert step.positions is not None
        logits, _ = trained_pass(found, given)
        expected = logits.gather(1, step.positions.unsqueeze(-1).expand_as(step.logits))
        torch.testing.assert_close(step.logits, expected, rtol=1e-3, atol=1e-4)
        given = given.scatter(1, step.positions, step.codes)
    assert (given >= 0).all()
    first, last = trained_pass(found, torch.full((2, TOKENS), -1))[0], trained_pass(found, given)[0]
    assert not torch.allclose(first, last, atol=1e-2), "what is given makes a difference"


def test_the_residual_is_sampled_once_from_hidden_states_that_have_seen_all_codes() -> None:
    tokenizer, hart = tiny_model(MASKED)
    found = states([0, 1])
    places = torch.cat([step.positions for step in found[-1].steps], dim=1)
    codes = torch.cat([step.codes for step in found[-1].steps], dim=1).gather(1, places.argsort(dim=1))
    with torch.no_grad():
        condition = hart.residual_condition(trained_pass(found, codes)[1], tokenizer.quantizer.codebook(codes))
        numbers = SeededNoise([0, 1], torch.device("cpu")).residual(torch.arange(TOKENS).unsqueeze(0), CHANNELS, 4)
        residual = hart.residual_head().sample(condition, None, (0.0, 0.0), numbers)
        expected = found[-2].latent + to_map(
            tokenizer.quantizer.codebook(codes) + residual, MASKED.transformer.schedule.final
        )
    torch.testing.assert_close(found[-1].latent, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.replace(guidance_scale=3.0, unguided_scales=2)])
def test_an_image_is_the_same_alone_and_in_a_batch(settings: SamplingConfig) -> None:
    together = states([0, 1], settings)[-1].latent
    single = torch.cat([states([seed], settings)[-1].latent for seed in (0, 1)])
    torch.testing.assert_close(together, single, rtol=1e-2, atol=1e-2)


def test_what_an_edit_keeps_is_given_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, hart = tiny_model(MASKED)
    seen = list[Tensor]()
    embed = hart.transformer.embed_scale
    monkeypatch.setattr(hart.transformer, "embed_scale", lambda *a, **b: seen.append(a[5]) or embed(*a, **b))
    redraw = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    redraw[..., :2, :] = False
    generated = (*(torch.ones(1, n, dtype=torch.bool) for n in (1, 4, 9)), redraw.flatten(1))
    edits = BatchEdits((ImageEdit(torch.zeros(1, CHANNELS, 4, 4), redraw, generated),))
    noise = SeededNoise([0], torch.device("cpu"))
    NextScaleGenerator(hart, tokenizer.quantizer, SETTINGS, noise, edits=edits)(random_context(MASKED, 1))
    of_last = [given for given in seen if given is not None]
    assert len(of_last) == SETTINGS.maskgit_steps + 1
    assert of_last[0].equal(~redraw.flatten(1))
    assert of_last[-1].all()


def test_a_step_gives_all_codes_or_leaves_some_to_predict() -> None:
    given = sample_given(4000, 64, torch.Generator().manual_seed(0))
    share = given.float().mean(dim=1)
    assert 0.2 < (share == 1).float().mean() < 0.3
    partly = share[share < 1]
    # the mean of cos(pi/2 u) is 2 / pi, and at least one token is left
    assert abs(1 - partly.mean() - 2 / torch.pi) < 0.03
    assert partly.min() < 0.05


def test_given_codes_are_in_the_sum_of_the_last_scale_alone() -> None:
    tokenizer, _ = tiny_model(MASKED)
    with torch.no_grad():
        maps = tokenizer.token_maps(tokenizer.encode(random_image(2)))
        given = torch.arange(TOKENS).expand(2, -1) % 3 == 0
        ours: TokenMaps = with_given(maps, given, maps.indices[-1], tokenizer.quantizer.codebook, 0.5)
        added = ours.teacher_forcing_input - maps.teacher_forcing_input
        expected = tokenizer.quantizer.codebook(maps.indices[-1]) * given.unsqueeze(-1)
    torch.testing.assert_close(added[:, -TOKENS:], expected)
    assert not added[:, :-TOKENS].any()
    assert ours.given is not None
    assert ours.given.equal(torch.where(given, maps.indices[-1], -1))


def test_absolute_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="masked_last_scale requires rotary positions"):
        tiny_class_config(masked_last_scale=True)
