"""The loop over scales against a slow reference without cache, and what its settings promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hart.config import HartConfig, SamplingConfig
from hart.generation.guidance_and_sampling import Candidates, gumbel_mixture
from hart.generation.last_scale import maskgit_step_sizes
from hart.generation.next_scale import NextScaleGenerator, ScaleState, TokenStep
from hart.generation.noise import SeededNoise
from hart.grids import Grid, ScaleSchedule, sizes_ending_at
from hart.layers.kv_cache import KVCache
from hart.tokenizer.quantizer import to_map
from hart.types import Context, TextContext
from helpers import CHANNELS, random_context, tiny_class_config, tiny_model, tiny_text_config

TEXT, CLASS = tiny_text_config(), tiny_class_config()
KINDS = {"text": TEXT, "class": CLASS}
SETTINGS = SamplingConfig(guidance_scale=3.0, top_k=10)


def seeded(*seeds: int) -> SeededNoise:
    return SeededNoise(seeds, torch.device("cpu"))


def states(config: HartConfig, context: Context, settings: SamplingConfig, noise: Any) -> list[ScaleState]:
    tokenizer, hart = tiny_model(config)
    return list(NextScaleGenerator(hart, tokenizer.quantizer, settings, noise).states(context))


def steps(config: HartConfig, context: Context, settings: SamplingConfig, uniform: Any) -> list[TokenStep]:
    return [step for state in states(config, context, settings, uniform) for step in state.steps]


def generate(config: HartConfig, context: Context, settings: SamplingConfig, noise: Any) -> Tensor:
    tokenizer, hart = tiny_model(config)
    return NextScaleGenerator(hart, tokenizer.quantizer, settings, noise)(context)


class BestCodes:
    """No chance at all: arg max, no Gumbel noise, zeros for the diffusion."""

    def __init__(self, images: int) -> None:
        self.images = images

    def gumbel(self, k: int, positions: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
        none = torch.zeros_like(candidates.logits)
        return none, none

    def residual(self, positions: Tensor, channels: int, steps: int) -> Tensor:
        return torch.zeros(steps, self.images, positions.shape[1], channels)

    def order(self, tokens: int) -> Tensor:
        return torch.arange(tokens).expand(self.images, tokens)

    def of(self, rows: Sequence[int]) -> BestCodes:
        return BestCodes(len(rows))


def slow_reference(
    config: HartConfig, context: Context, settings: SamplingConfig, schedule: ScaleSchedule | None = None
) -> Tensor:
    """Discrete generation with full training passes: no cache, the two halves of guidance apart."""
    tokenizer, hart = tiny_model(config)
    quantizer, transformer, schedule = tokenizer.quantizer, hart.transformer, schedule or config.transformer.schedule
    last = len(schedule) - 1
    total = torch.zeros(len(context), CHANNELS, *schedule.final)
    teacher = torch.zeros(len(context), schedule.total_tokens - 1, CHANNELS)
    for k, n in enumerate(schedule):
        span = schedule.span(k)
        if k > 0:
            shown = F.adaptive_avg_pool2d(total, n).flatten(2).transpose(1, 2)
            teacher[:, span.start - 1 : span.stop - 1] = shown
        halves = []
        for half in (context, context.null()):
            output = transformer(half, teacher, schedule=schedule)
            halves.append(transformer.logits(output.hidden, output.conditioning)[:, span])
        ratio = (last - 1) / last if k == last and config.hybrid else k / last
        strength = settings.guidance_scale * ratio if k <= last - settings.unguided_scales else 0.0
        logits = (1 + strength) * halves[0] - strength * halves[1]
        if settings.gumbel_smoothing:
            candidates = Candidates(logits, None)
            embeddings = gumbel_mixture(candidates, torch.zeros_like(logits), ratio, quantizer.codebook.weight)
        else:
            embeddings = quantizer.codebook(logits.argmax(dim=-1))
        if k == last and config.hybrid:
            total = total + to_map(embeddings, schedule.final)
        else:
            total = total + quantizer.contribution(embeddings, k, schedule)
    return total


@pytest.mark.parametrize(("gumbel_smoothing", "unguided_scales"), [(False, 0), (True, 0), (True, 2)])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_discrete_generation_agrees_with_a_slow_reference(
    config: HartConfig, gumbel_smoothing: bool, unguided_scales: int
) -> None:
    """Guidance grows with the scale; the last scale of a hybrid model takes the one before, and no phi."""
    settings = SamplingConfig(
        guidance_scale=2.0, top_k=None, gumbel_smoothing=gumbel_smoothing, unguided_scales=unguided_scales
    )
    context = random_context(config, 2)
    ours = generate(config, context, settings.replace(discrete_only=True), BestCodes(2))
    with torch.no_grad():
        expected = slow_reference(config, context, settings)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gumbel_smoothing", [False, True])
def test_greedy_scales_take_the_likeliest_codes(gumbel_smoothing: bool) -> None:
    """As many as there are: the best codes of all; the last two: what is sampled before them still differs by seed."""
    context = random_context(TEXT, 1)
    settings = SamplingConfig(guidance_scale=2.0, discrete_only=True, gumbel_smoothing=gumbel_smoothing)
    best = slow_reference(TEXT, context, settings.replace(gumbel_smoothing=False))
    found = [
        generate(TEXT, context, settings.replace(greedy_scales=n), seeded(5))
        for n in (len(TEXT.transformer.scales), 2, 0)
    ]
    torch.testing.assert_close(found[0], best, rtol=1e-3, atol=1e-3)
    assert len({tuple(one.flatten().tolist()) for one in found}) == 3


@pytest.mark.parametrize("grid", [Grid(3, 6), Grid(8, 2), Grid(6, 6)], ids=str)
def test_any_grid_agrees_with_the_slow_reference(grid: Grid) -> None:
    settings = SamplingConfig(guidance_scale=2.0, top_k=None, discrete_only=True)
    context, (tokenizer, hart) = random_context(TEXT, 2), tiny_model(TEXT)
    schedule = ScaleSchedule.shaped(sizes_ending_at(TEXT.transformer.scales, grid.equal_square), grid)
    ours = NextScaleGenerator(hart, tokenizer.quantizer, settings, BestCodes(2), schedule)(context)
    with torch.no_grad():
        expected = slow_reference(TEXT, context, settings, schedule)
    assert ours.shape == (2, CHANNELS, *grid)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("maskgit_steps", "last"), [(1, 16), (3, maskgit_step_sizes(16, 3)[-1])])
def test_keys_that_nobody_will_see_are_not_kept(maskgit_steps: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, hart = tiny_model(TEXT)
    transformer, caches = hart.transformer, list[KVCache]()
    make = transformer.new_cache
    monkeypatch.setattr(transformer, "new_cache", lambda *given: caches.append(make(*given)) or caches[-1])
    settings = SETTINGS.replace(maskgit_steps=maskgit_steps)
    NextScaleGenerator(hart, tokenizer.quantizer, settings, seeded(1))(random_context(TEXT, 1))
    tokens = transformer.config.context_tokens + 4 + 9 + 16
    assert [(cache.capacity, cache.length) for cache in caches] == [(tokens - last, tokens)]


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 2), (1.5, 4)])
def test_without_guidance_only_the_conditional_half_is_computed(guidance: float, rows: int) -> None:
    tokenizer, hart = tiny_model(TEXT)
    seen = set()
    hart.transformer.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[0]))
    assert hart.residual is not None
    tokens = set()
    hart.residual.denoiser.register_forward_pre_hook(lambda _, inputs: tokens.add(inputs[0].shape[0]))
    settings = SETTINGS.replace(guidance_scale=guidance)
    NextScaleGenerator(hart, tokenizer.quantizer, settings, seeded(0, 1))(random_context(TEXT, 2))
    # with guidance, the context runs by itself: two given texts, and one token of one row for both null texts
    assert seen == ({2} if guidance == 0 else {2, 1, rows})
    # at guidance 1.5 the last scale has 1.0, which is guidance like any other
    assert tokens == {rows}


def test_the_residual_is_what_hybrid_adds_to_discrete() -> None:
    context, settings = random_context(TEXT, 1), SETTINGS.replace(gumbel_smoothing=False)
    hybrid = states(TEXT, context, settings, seeded(3))
    discrete = states(TEXT, context, settings.replace(discrete_only=True), seeded(3))
    assert torch.equal(discrete[2].latent, hybrid[2].latent)
    residual = hybrid[3].steps[0].residual
    assert residual is not None
    torch.testing.assert_close(hybrid[3].latent - discrete[3].latent, to_map(residual, TEXT.transformer.schedule.final))
    assert 1e-3 < residual.abs().max() <= 0.6 + 1e-5, "x0 is clipped to [-1, 1] and times 0.6"


@pytest.mark.parametrize("gumbel_smoothing", [False, True])
def test_an_image_whose_numbers_leave_their_range_spoils_no_other(gumbel_smoothing: bool) -> None:
    """It is NaN everywhere, also where codes alone would look like an image."""
    settings, context = SETTINGS.replace(gumbel_smoothing=gumbel_smoothing), random_context(TEXT, 2)
    wanted = generate(TEXT, context, settings, seeded(0, 1))
    assert isinstance(context, TextContext)
    context.embeddings[1, 0, 0] = math.inf
    found = generate(TEXT, context, settings, seeded(0, 1))
    assert found[1].isnan().all()
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-2)


@given(tokens=st.integers(1, 4096), share=st.floats(0, 1))
def test_maskgit_steps_share_out_all_tokens(tokens: int, share: float) -> None:
    maskgit_steps = max(1, round(share * min(tokens, 64)))
    sizes = maskgit_step_sizes(tokens, maskgit_steps)
    assert len(sizes) == maskgit_steps
    assert sum(sizes) == tokens
    assert min(sizes) >= 1
    left = tokens
    for r, size in enumerate(sizes[:-1], start=1):
        wanted = math.floor(tokens * math.cos(math.pi / 2 * r / maskgit_steps))
        assert left - size == max(1, min(wanted, left - 1))
        left -= size


@pytest.mark.parametrize(("kind", "late"), [("text", 5), ("class", 10)], ids=["hybrid", "VAR"])
def test_only_hybrid_models_keep_fewer_codes_at_late_scales(kind: str, late: int) -> None:
    """HART's published code halves top-k from the eighth scale on; VAR's figures are generated with one for all."""

    class Counting(BestCodes):
        def __init__(self) -> None:
            super().__init__(1)
            self.kept: list[int] = []

        def gumbel(self, k: int, positions: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
            self.kept.append(int(candidates.logits[0, 0].isfinite().sum()))
            return super().gumbel(k, positions, candidates)

    config, scales = KINDS[kind], tuple(range(1, 10))
    config = config.replace(
        tokenizer=config.tokenizer.replace(scales=scales), transformer=config.transformer.replace(scales=scales)
    )
    noise = Counting()
    generate(config, random_context(config, 1), SETTINGS.replace(gumbel_smoothing=False), noise)
    assert noise.kept == [10] * 7 + [late] * 2
