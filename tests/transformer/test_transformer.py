"""The transformer's two ways of computing agree, and information flows only where it may."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hart.config import ConfigError, HartConfig
from hart.grids import Grid, ScaleSchedule
from hart.layers.norm import modulate
from hart.layers.rope import rotation_2d
from hart.transformer.transformer import HartTransformer, gather_tokens
from hart.types import Context, Rows, TextContext
from helpers import (
    CHANNELS,
    random_context,
    random_tensor,
    randomize,
    teacher_input,
    tiny_class_config,
    tiny_text_config,
    transformer_variants,
    without_gradient,
)

VARIANTS = transformer_variants()
each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
each_kind = pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["text", "class"])


def build(config: HartConfig) -> HartTransformer:
    module = HartTransformer(config.transformer)
    randomize(module)
    return module.eval()


def scale_by_scale(
    module: HartTransformer, context: Context, teacher: Tensor, schedule: ScaleSchedule | None = None
) -> Tensor:
    """Hidden states of all scales, one call a scale, as generation computes them."""
    conditioning = module.condition(context)
    cache = module.new_cache(len(context), schedule)
    hidden = [module.first_scale(conditioning, cache)]
    counts = (schedule or module.config.schedule).token_counts
    for k, scale_input in enumerate(teacher.split(list(counts[1:]), dim=1), start=1):
        hidden.append(module.next_scale(k, scale_input, conditioning, cache, schedule=schedule))
    assert cache.length == cache.capacity
    return torch.cat(hidden, dim=1)


@each_variant
def test_cached_generation_is_one_training_pass(config: HartConfig) -> None:
    module, context, teacher = build(config), random_context(config, 2), teacher_input(config, 2)
    with torch.no_grad():
        output = module(context, teacher)
        stepwise = scale_by_scale(module, context, teacher)
        logits = module.logits(output.hidden, output.conditioning)
    torch.testing.assert_close(stepwise, output.hidden, rtol=1e-4, atol=1e-4)
    assert output.segments == module.config.schedule.token_counts
    assert logits.shape == (2, module.config.schedule.total_tokens, config.transformer.codebook_size)


@pytest.mark.parametrize("grid", [Grid(3, 6), Grid(9, 2), Grid(4, 4)], ids=str)
def test_cached_generation_is_one_training_pass_on_any_grid(grid: Grid) -> None:
    config = tiny_text_config()
    schedule = ScaleSchedule.shaped((1, 2, 3, 4), grid)
    module, context = build(config), random_context(config, 2)
    teacher = random_tensor(2, schedule.total_tokens - 1, CHANNELS)
    with torch.no_grad():
        output = module(context, teacher, schedule=schedule)
        stepwise = scale_by_scale(module, context, teacher, schedule)
    assert output.segments == schedule.token_counts
    torch.testing.assert_close(stepwise, output.hidden, rtol=1e-4, atol=1e-4)


def test_positions_of_a_scale_span_the_image() -> None:
    """Rows count in those of the last scale, columns likewise, each from where the context ends."""
    config = tiny_text_config()
    module, schedule = build(config), ScaleSchedule.shaped((1, 2, 3, 4), Grid(2, 8))
    conditioning = module.condition(random_context(config, 1))
    start = float(conditioning.context.last_position)
    _, found = module.embed_scale(1, random_tensor(1, 4, CHANNELS), conditioning, schedule=schedule)
    assert schedule.grids[1] == (1, 4)
    wanted = rotation_2d(torch.full((1, 4), start), start + torch.tensor([[0.0, 2, 4, 6]]), module.head_width)
    for ours, theirs in zip(found or (), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_positions_may_span_the_same_range_at_every_size() -> None:
    """Then a coarse scale has the same positions in images of every size."""
    config = tiny_text_config(position_span=4)
    module, given = build(config), random_tensor(1, 4, CHANNELS)
    conditioning = module.condition(random_context(config, 1))
    small, large = (ScaleSchedule.square(scales) for scales in ((1, 2, 4), (1, 2, 4, 8)))
    found = [module.embed_scale(1, given, conditioning, schedule=schedule)[1] for schedule in (small, large)]
    for ours, theirs in zip(*(rotation or () for rotation in found), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("choices", "schedule", "fault"),
    [
        ({}, ScaleSchedule.shaped((1, 2, 3, 4), Grid(2, 8)), "learned the positions of the scales 1, 2, 3, 4"),
        ({"position": "rotary"}, ScaleSchedule.square((1, 2, 3, 4, 5)), "learned 4 levels: 5 scales are too many"),
        ({"position": "rotary"}, ScaleSchedule.square((1, 2, 5)), ""),
    ],
)
def test_learned_tables_serve_the_scales_they_were_made_for(
    choices: dict[str, str], schedule: ScaleSchedule, fault: str
) -> None:
    module = build(tiny_class_config(**choices))
    if not fault:
        assert module.new_cache(1, schedule).capacity == schedule.total_tokens
        return
    with pytest.raises(ConfigError, match=fault):
        module.new_cache(1, schedule)


@each_variant
def test_the_loss_reaches_every_parameter(config: HartConfig) -> None:
    module = build(config)
    output = module(random_context(config, 2), teacher_input(config, 2))
    module.logits(output.hidden, output.conditioning).square().mean().backward()
    assert not without_gradient(module)


@each_kind
def test_a_scale_sees_itself_and_the_past_but_no_future(config: HartConfig) -> None:
    module, context, teacher = build(config), random_context(config, 1), teacher_input(config, 1)
    for changed in (1, 2, 3):
        span = module.config.schedule.span(changed)
        other = teacher.clone()
        other[:, span.start - 1] += 1  # the first token of the scale; the row lacks scale 1's token
        with torch.no_grad():
            before, after = (module(context, x).hidden for x in (teacher, other))
        moved = (before - after).abs().amax(dim=2)[0]
        assert not moved[: span.start].any()
        assert (moved[span.start :] > 1e-6).all(), "every token of the scale and of later ones must notice"


def test_context_padding_is_attended_to() -> None:
    """As the released weights were trained: what stands in the padding matters."""
    config = tiny_text_config()
    module, teacher = build(config), teacher_input(config, 1)
    context = random_context(config, 1)
    assert isinstance(context, TextContext)
    assert not context.mask[0, -1]
    other = context.embeddings.clone()
    other[0, -1] *= -1
    with torch.no_grad():
        difference = module(context, teacher).hidden - module(replace(context, embeddings=other), teacher).hidden
    assert (difference.abs().amax(dim=2) > 1e-6).all()


@pytest.mark.parametrize(("pooling", "notices"), [("mean", False), ("max", True)])
def test_mean_pooling_leaves_padding_out_and_max_pooling_does_not(pooling: str, notices: bool) -> None:
    config = tiny_text_config(modulation="linear", modulation_pooling=pooling)
    module, context = build(config), random_context(config, 1)
    assert isinstance(context, TextContext)
    other = context.embeddings.clone()
    other[0, -1] *= 100
    before, after = (module.condition(c).context for c in (context, replace(context, embeddings=other)))
    assert torch.equal(before.block_condition, after.block_condition) is not notices
    assert torch.equal(before.tokens.amax(dim=1), before.head_condition)


@each_kind
def test_a_part_of_the_last_scale_leaves_the_others_as_they_are(config: HartConfig) -> None:
    module, context, teacher = build(config), random_context(config, 2), teacher_input(config, 2)
    positions = torch.tensor([[0, 3, 5, 15], [1, 2, 8, 9]])
    count = module.config.schedule.token_counts[-1]
    with torch.no_grad():
        whole, part = module(context, teacher), module(context, teacher, last_positions=positions)
        every = module(context, teacher, last_positions=torch.arange(count).expand(2, -1))
    assert part.segments == (*module.config.schedule.token_counts[:-1], 4)
    torch.testing.assert_close(part.hidden[:, :-4], whole.hidden[:, :-count], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(every.hidden, whole.hidden, rtol=1e-4, atol=1e-5)
    # the kept tokens see each other only
    assert not torch.allclose(part.last_scale, gather_tokens(whole.last_scale, positions), atol=1e-3)


@each_kind
def test_chosen_tokens_have_the_rotation_of_their_position(config: HartConfig) -> None:
    """A lone token of the last scale is the same whether it is taken out before or after it is embedded."""
    module = build(config)
    conditioning = module.condition(random_context(config, 2))
    scale_input, positions = random_tensor(2, 16, 4), torch.tensor([[4], [15]])
    whole, whole_rotation = module.embed_scale(3, scale_input, conditioning)
    some, some_rotation = module.embed_scale(3, gather_tokens(scale_input, positions), conditioning, positions)
    torch.testing.assert_close(some, gather_tokens(whole, positions))
    assert (some_rotation is None) == (whole_rotation is None)
    for ours, wanted in zip(some_rotation or (), whole_rotation or (), strict=True):
        torch.testing.assert_close(ours, torch.stack([wanted[i, :, positions[i]] for i in range(2)]))


@each_variant
def test_one_token_stands_for_a_null_context(config: HartConfig) -> None:
    module = build(config)
    conditioning = module.condition(Rows.cat([context := random_context(config, 2), context.null()]))
    whole, short = (module.new_cache(4) for _ in range(2))
    with torch.no_grad():
        wanted, found = module.first_scale(conditioning, whole), module.first_scale(conditioning, short, null_rows=2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert short.length == whole.length == module.config.context_tokens
    ours, theirs = (cache.numbers[..., : whole.length, :] for cache in (short, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_sinusoidal_levels_carry_over_to_longer_schedules() -> None:
    """What lets a 256px model be tuned at 512 and 1024: no tensor depends on the number of scales."""
    module = build(tiny_text_config())
    larger = tiny_text_config().transformer.replace(scales=(1, 2, 3, 4, 6, 8))
    longer = HartTransformer(larger)
    longer.load_state_dict(module.state_dict())
    context = random_context(tiny_text_config(), 1)
    with torch.no_grad():
        hidden = longer.eval()(context, random_tensor(1, larger.schedule.total_tokens - 1, 4)).hidden
    assert hidden.shape == (1, larger.schedule.total_tokens, 32)
    assert hidden.isfinite().all()


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_logits_are_computed_in_float32_in_a_bfloat16_model(autocast: bool) -> None:
    dtype = torch.float32 if autocast else torch.bfloat16
    head = build(tiny_text_config()).head.to(dtype)
    hidden, condition = random_tensor(1, 5, 32).to(dtype), random_tensor(1, 32, seed=1).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        modulation = head.modulation(condition).unflatten(1, (2, -1))
        logits = head(hidden, modulation)
        scale, shift = modulation.unsqueeze(2).unbind(1)
        h = modulate(head.norm(hidden), scale, shift).double()
    exact = h @ head.linear.weight.double().T + head.linear.bias.double()
    torch.testing.assert_close(logits, exact.float(), rtol=1e-5, atol=1e-5)
