"""The tokenizer as a whole: both reconstructions, teacher forcing, gradients, any size and schedule."""

from __future__ import annotations

import itertools

import pytest
import torch

from hart.grids import Grid, ScaleSchedule
from hart.sizes import schedule_of_grid
from hart.tokenizer.autoencoder import with_patch_size
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.tokenizer.quantizer import Corruption, next_scale_input, pool, to_map
from helpers import CHANNELS, random_image, random_tensor, randomize, tiny_tokenizer_config, without_gradient


@pytest.fixture
def tokenizer() -> HybridTokenizer:
    module = HybridTokenizer(tiny_tokenizer_config())
    randomize(module)
    return module.eval()


def test_the_continuous_path_is_the_autoencoder_and_the_discrete_path_its_codes(tokenizer: HybridTokenizer) -> None:
    image = random_image(2)
    latent = tokenizer.encode(image)
    assert latent.shape == (2, CHANNELS, 4, 4)
    discrete, continuous = tokenizer.reconstruct(image)
    assert torch.equal(continuous, tokenizer.decode(latent))
    assert torch.equal(discrete, tokenizer.decode(tokenizer.quantize(latent).latent))
    assert not torch.allclose(continuous, discrete, atol=1e-2)


def enlarged(image: torch.Tensor, times: int) -> torch.Tensor:
    return image.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


def test_patches_of_more_pixels_change_the_size_and_nothing_else(tokenizer: HybridTokenizer) -> None:
    image, weights = random_image(2), tokenizer.state_dict()
    latent, known = tokenizer.encode(image), 1
    for patch_size in (2, 6):
        wider = HybridTokenizer(tokenizer.config.replace(patch_size=patch_size)).eval()
        weights, known = with_patch_size(weights, known, patch_size), patch_size
        wider.load_state_dict(weights)
        large = enlarged(image, patch_size)
        assert wider.config.image_size == large.shape[3] == patch_size * tokenizer.config.image_size
        torch.testing.assert_close(wider.encode(large), latent)
        torch.testing.assert_close(wider.decode(latent), enlarged(tokenizer.decode(latent), patch_size))


def test_by_replicated_features_plain_ones_give_a_plain_image_to_the_last_pixel(tokenizer: HybridTokenizer) -> None:
    other = HybridTokenizer(tokenizer.config.replace(output_padding="replicate")).eval()
    other.load_state_dict(tokenizer.state_dict())
    features = torch.ones(1, other.decoder.conv_out.in_channels, 4, 4)
    plain = other.decoder.conv_out(features)
    torch.testing.assert_close(plain, plain[..., 1:2, 1:2].expand_as(plain))
    zeros = tokenizer.decoder.conv_out(features)
    torch.testing.assert_close(zeros[..., 1:-1, 1:-1], plain[..., 1:-1, 1:-1])
    assert not torch.allclose(zeros, plain, atol=1e-2)


SCHEDULES = [
    ScaleSchedule.square((1, 2, 4)),
    ScaleSchedule.square((1, 2, 3, 4, 5, 6, 8)),
    ScaleSchedule.shaped((1, 3, 5, 6), Grid(4, 9)),
    ScaleSchedule.shaped((1, 2, 3, 4), Grid(8, 2)),
]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def image_for(tokenizer: HybridTokenizer, schedule: ScaleSchedule, batch: int = 1) -> torch.Tensor:
    height, width = (tokenizer.config.downsampling * side for side in schedule.final)
    return random_image(batch, size=max(height, width))[:, :, :height, :width]


@each_schedule
def test_any_size_and_schedule(tokenizer: HybridTokenizer, schedule: ScaleSchedule) -> None:
    image = image_for(tokenizer, schedule)
    maps = tokenizer.token_maps(tokenizer.encode(image), schedule)
    assert tuple(index.shape[1] for index in maps.indices) == schedule.token_counts
    assert maps.teacher_forcing_input.shape == (1, schedule.total_tokens - 1, CHANNELS)
    assert maps.last_scale_continuous.shape == (1, schedule.token_counts[-1], CHANNELS)
    assert tokenizer.reconstruct(image, schedule)[0].shape == image.shape


def test_teacher_forcing_shows_each_scale_the_sum_of_those_before(tokenizer: HybridTokenizer) -> None:
    schedule = tokenizer.config.schedule
    latent = random_tensor(2, CHANNELS, 4, 4)
    maps = tokenizer.token_maps(latent)
    total = torch.zeros_like(latent)
    for k, index in enumerate(maps.indices):
        if k > 0:
            span = schedule.span(k)
            shown = maps.teacher_forcing_input[:, span.start - 1 : span.stop - 1]
            torch.testing.assert_close(shown, next_scale_input(total, schedule.grids[k]), rtol=1e-5, atol=1e-5)
        if k < len(schedule) - 1:
            total = total + tokenizer.quantizer.contribution(tokenizer.quantizer.codebook(index), k, schedule)
    torch.testing.assert_close(total + to_map(maps.last_scale_continuous, schedule.final), latent, rtol=1e-5, atol=1e-5)


def test_an_image_above_the_base_size_has_the_coarse_codes_of_the_image_made_small() -> None:
    """All but those of the last base scale, whatever codes are corrupted; finer scales add what they lack."""
    base, schedule = ScaleSchedule.square((1, 2, 4)), ScaleSchedule.square((1, 2, 4, 8))
    tokenizer = HybridTokenizer(tiny_tokenizer_config().replace(scales=(1, 2, 4, 8), base_scales=(1, 2, 4)))
    randomize(tokenizer)
    image = random_image(2, size=16)
    small, latent = pool(image, Grid(8, 8)), tokenizer.encode(image)
    coarse = tokenizer.coarse_codes(image)
    assert [index.tolist() for index in coarse] == [
        index.tolist() for index in tokenizer.quantize(tokenizer.encode(small), base).indices[:2]
    ]
    wrong = Corruption(torch.ones(2, 1), torch.Generator().manual_seed(0), slice(None))
    for maps in (tokenizer.token_maps(latent, coarse=coarse), tokenizer.token_maps(latent, schedule, wrong, coarse)):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps.indices, coarse, strict=False))
    known = tokenizer.token_maps(latent, coarse=coarse)
    rebuilt = tokenizer.latent_from_codes(known.indices, known.last_scale_continuous, schedule)
    torch.testing.assert_close(rebuilt, latent)
    assert not torch.equal(known.teacher_forcing_input, maps.teacher_forcing_input)
    discrete = tokenizer.decode(tokenizer.quantize(latent, coarse=coarse).latent)
    assert torch.equal(tokenizer.reconstruct(image)[0], discrete)
    for other in (base, ScaleSchedule.square((1, 3, 8))):
        assert tokenizer.coarse_codes(image_for(tokenizer, other), other) == ()
    with torch.autocast("cpu", torch.bfloat16):
        trained = tokenizer.training_pass(image, discrete=True).quantized
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(trained.indices, coarse, strict=False))
    trained = tokenizer.training_pass(image, discrete=True).quantized
    assert torch.equal(trained.latent, tokenizer.quantize_image(image).latent)


@pytest.mark.parametrize("scales", [(1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6, 8, 11, 16)], ids=str)
def test_images_of_every_shape_above_the_base_size_have_its_coarse_codes(scales: tuple[int, ...]) -> None:
    base = (1, 2, 3, 4, 6, 8)
    tokenizer = HybridTokenizer(tiny_tokenizer_config().replace(scales=scales, base_scales=base))
    for height, width in itertools.product(range(4, 34), repeat=2):
        final = Grid(height, width)
        if max(final) <= 8 * min(final):
            schedule = schedule_of_grid(scales, final)
            smaller = tokenizer.smaller(schedule)
            assert (smaller is not None) == (final.equal_square > base[-1]), final
            assert smaller is None or smaller.grids[:-1] == schedule.grids[: len(base) - 1]


def test_gradients_go_straight_through_the_codes(tokenizer: HybridTokenizer) -> None:
    image = random_image(2)
    result = tokenizer.training_pass(image, discrete=True)
    torch.testing.assert_close(result.latent, result.quantized.latent, rtol=1e-5, atol=1e-5)
    weight = random_tensor(*result.latent.shape)
    (result.latent * weight).sum().backward()
    through_codes = [p.grad.clone() for p in tokenizer.encoder.parameters() if p.grad is not None]
    tokenizer.zero_grad()
    (tokenizer.encode(image) * weight).sum().backward()
    direct = [p.grad for p in tokenizer.encoder.parameters()]
    assert len(through_codes) == len(direct)
    for ours, wanted in zip(through_codes, direct, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("discrete", [True, False])
def test_the_loss_reaches_every_parameter(tokenizer: HybridTokenizer, discrete: bool) -> None:
    image = random_image(2)
    result = tokenizer.training_pass(image, discrete=discrete)
    error = (tokenizer.decode_unclamped(result.latent) - image).abs().mean()
    (error + result.quantizer_loss).backward()
    assert not without_gradient(tokenizer)


def test_the_continuous_pass_decodes_the_latent_and_has_the_same_loss(tokenizer: HybridTokenizer) -> None:
    image = random_image(2)
    discrete, continuous = (tokenizer.training_pass(image, discrete=flag) for flag in (True, False))
    assert torch.equal(continuous.latent, tokenizer.encode(image))
    assert torch.equal(discrete.quantizer_loss, continuous.quantizer_loss)


@each_schedule
def test_stored_codes_give_the_token_maps_again(tokenizer: HybridTokenizer, schedule: ScaleSchedule) -> None:
    image = image_for(tokenizer, schedule, batch=2)
    maps = tokenizer.token_maps(tokenizer.encode(image), schedule)
    again = tokenizer.token_maps_from_codes(maps.indices, maps.last_scale_continuous, schedule)
    torch.testing.assert_close(again.teacher_forcing_input, maps.teacher_forcing_input)
    assert again.indices == maps.indices
    assert again.last_scale_continuous is maps.last_scale_continuous
