"""Edits of images: what stays, stays exactly; what is drawn is what generation draws."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edited_images import LEFT, SIDE, mask_of, picture
from hart import Edit, HartError, HartPipeline, ImageRequest, PromptMix
from hart.data.transforms import to_signed
from hart.generation.edits import MAX_STYLE, ImageEdit, batch_edits, followed_codes
from hart.generation.guidance_and_sampling import Candidates, filtered
from hart.generation.noise import SeededNoise
from hart.grids import ScaleSchedule
from hart.tokenizer.quantizer import QuantizedLatent, next_scale_input
from helpers import SCALES, tiny_text_config


@pytest.fixture(scope="module")
def larger() -> HartPipeline:
    """Whose coarse codes are those of images made small."""
    config = tiny_text_config()
    tokenizer = config.tokenizer.replace(base_scales=(1, 2, 3))
    return HartPipeline.from_config(config.replace(tokenizer=tokenizer), device="cpu")


@pytest.fixture(params=["text", "classes", "larger"])
def pipe(request: pytest.FixtureRequest) -> HartPipeline:
    found: HartPipeline = request.getfixturevalue(request.param)
    return found


def prompts(pipe: HartPipeline) -> list[Any]:
    return ["a cat", "a dog"] if pipe.num_classes is None else [1, 2]


def coded(pipe: HartPipeline, image: Image.Image) -> QuantizedLatent:
    """What the tokenizer makes of an image of the model's size."""
    return pipe.tokenizer.quantize_image(to_signed(pipe.prepare_variation(image).pixels).unsqueeze(0))


def latents(pipe: HartPipeline, images: list[ImageRequest], size: str | None = None) -> Tensor:
    *_, last = pipe.generate_rows(images, size=size)
    return last.latent


def with_settings(*settings: dict[str, Any]) -> pytest.MarkDecorator:
    """All of them with the text model, the first with the others."""
    cases = [("text", one) for one in settings] + [(kind, settings[0]) for kind in ("classes", "larger")]
    return pytest.mark.parametrize(("pipe", "settings"), cases, indirect=["pipe"])


@with_settings({}, {"gumbel_smoothing": True}, {"maskgit_steps": 3}, {"discrete_only": True})
def test_an_empty_mask_gives_the_image_and_a_full_one_a_new_one(pipe: HartPipeline, settings: dict[str, Any]) -> None:
    image, prompt = picture(), prompts(pipe)[0]
    assert pipe.edit(image, mask_of(), prompt, **settings).images[0].tobytes() == image.tobytes()
    full = pipe.edit(image, mask_of(0, 0, SIDE, SIDE), prompt, seed=4, **settings).images[0]
    assert full.tobytes() == pipe(prompt, seed=4, **settings).images[0].tobytes()


def test_outside_the_mask_latent_and_pixels_stay(text: HartPipeline) -> None:
    image = picture()
    edit = text.prepare_edit(image, mask_of(*LEFT))
    request = ImageRequest("a dog", seed=1, edit=edit)
    (latent,), encoded = latents(text, [request]), text.components.encode(edit.pixels)
    half = latent.shape[-1] // 2
    assert torch.equal(latent[..., half:], encoded[..., half:])
    assert not torch.equal(latent[..., :half], encoded[..., :half])
    (out,) = text.edit(image, mask_of(*LEFT), "a dog", seed=1).images
    right = (SIDE // 2, 0, SIDE, SIDE)
    assert out.crop(right).tobytes() == image.crop(right).tobytes()
    assert out.crop(LEFT).tobytes() != image.crop(LEFT).tobytes()
    assert out.tobytes() == edit.finished(text.decode(latent.unsqueeze(0))[0]).tobytes()
    unsaid, named = (text(prompt, edit=edit, size=edit.size, seed=1).images[0].tobytes() for prompt in (None, "a dog"))
    assert unsaid == text.edit(image, mask_of(*LEFT), seed=1).images[0].tobytes() != named == out.tobytes()


def test_the_border_is_soft_inside_the_mask_only() -> None:
    black, white = torch.zeros(3, 32, 32, dtype=torch.uint8), Image.new("RGB", (32, 32), "white")
    redraw = torch.zeros(32, 32, dtype=torch.bool)
    redraw[:, :16] = True
    redraw[20, 24] = True
    drawn = np.asarray(Edit(black, redraw).finished(white))[..., 0]
    assert (drawn[:, 16:][~redraw[:, 16:].numpy()] == 0).all()
    row = drawn[5].tolist()
    assert row[:12] == [255] * 12  # also at the image's own border
    assert row[12:16] == sorted(row[12:16], reverse=True)
    assert 0 < row[15] < row[13] < 255
    assert drawn[20, 24] == 255  # a mask of one pixel counts in full


def test_a_variation_keeps_scales(pipe: HartPipeline) -> None:
    image, (prompt, _) = picture(), prompts(pipe)
    own = coded(pipe, image)
    whole = pipe.vary(image, prompt, kept_scales=len(SCALES), seed=3).images[0]
    assert whole.tobytes() == pipe.decode(own.latent)[0].tobytes()
    assert pipe.vary(image, kept_scales=len(SCALES)).images[0].tobytes() == whole.tobytes()
    new = pipe.vary(image, prompt, kept_scales=0, seed=3).images[0]
    assert new.tobytes() == pipe(prompt, seed=3).images[0].tobytes()
    edit = pipe.prepare_variation(image, kept_scales=2)
    masked = pipe.prepare_edit(image, mask_of(*LEFT), kept_scales=2)
    for state in pipe.generate_rows([ImageRequest(prompt, edit=edit), ImageRequest(prompt, edit=masked)]):
        for codes in state.steps[0].codes:
            assert torch.equal(codes, own.indices[state.k][0]) == (state.k < 2)


def test_a_canvas_of_another_shape_keeps_no_more_of_an_image_than_was_asked_for(text: HartPipeline) -> None:
    image, wide = picture(), "16x8"
    plain = text("a dog", seed=3, size=wide).images[0].tobytes()
    assert text.vary(image, "a dog", kept_scales=0, seed=3, size=wide).images[0].tobytes() == plain
    drawn = np.asarray(text.vary(image, "a dog", kept_scales=1, seed=3, size=wide).images[0])
    assert (drawn[:, 4:12] != np.asarray(image)).mean() > 0.5
    (coloured,) = latents(
        text, [ImageRequest("a dog", edit=text.prepare_variation(image, style_strength=1, size=wide))], wide
    )
    (lent,) = latents(text, [ImageRequest("a dog", edit=text.prepare_variation(image, style=image, size=wide))], wide)
    assert torch.equal(coloured, lent)
    told = {"source_prompt": "a cat", "size": wide, "seed": 3}
    assert text.edit(image, None, "a dog", followed_scales=0, **told).images[0].tobytes() == plain
    followed = np.asarray(text.edit(image, None, "a dog", **told).images[0])
    assert (followed[:, 4:12] != np.asarray(image)).mean() > 0.5


STYLED: list[Callable[..., Edit]] = [
    lambda pipe, reference, strength: pipe.prepare_variation(reference, kept_scales=0, style_strength=strength),
    lambda pipe, reference, strength: pipe.prepare_variation(
        picture(seed=1), kept_scales=0, style=reference, style_strength=strength
    ),
    lambda pipe, reference, strength: pipe.prepare_edit(
        picture(seed=1), mask_of(*LEFT), style=reference, style_strength=strength
    ),
]


@pytest.mark.parametrize("prepared", STYLED, ids=["own", "another's", "another's under a mask"])
def test_a_style_brings_tokens_near_the_references(pipe: HartPipeline, prepared: Callable[..., Edit]) -> None:
    image, (prompt, _) = picture(), prompts(pipe)
    smaller = pipe.tokenizer.smaller()
    pixels, size = pipe.prepare_variation(image).pixels, None if smaller is None else smaller.final
    encoded = pipe.components.encode(pixels, size).unsqueeze(0)
    distances = []
    for strength in (0.0, 1.0, MAX_STYLE):
        edit = prepared(pipe, image, strength)
        states = list(pipe.generate_rows([ImageRequest(prompt, edit=edit)]))
        grid = pipe.config.tokenizer.schedule.grids[1]  # the last of those with a style
        made, asked = (next_scale_input(latent, grid)[0] for latent in (states[1].latent, encoded))
        distances.append(float(torch.cdist(made, asked).amin(dim=1).mean()))
    assert distances[0] > distances[1] > distances[2]


def test_under_a_mask_only_what_is_drawn_takes_a_style(pipe: HartPipeline) -> None:
    image, other, mask, (prompt, _) = picture(), picture(24, 5, seed=1), mask_of(*LEFT), prompts(pipe)
    plain, own, lent = (
        pipe.edit(image, mask, prompt, seed=3, **style).images[0]
        for style in ({}, {"style_strength": MAX_STYLE}, {"style": other})
    )
    assert len({one.tobytes() for one in (plain, own, lent)}) == 3
    kept = (SIDE // 2, 0, SIDE, SIDE)
    assert {one.crop(kept).tobytes() for one in (plain, own, lent)} == {image.crop(kept).tobytes()}
    assert pipe.prepare_edit(image, mask, style=other).style_strength == 1
    assert pipe.prepare_edit(image, mask).style_strength == 0
    everywhere = pipe.edit(image, mask_of(0, 0, SIDE, SIDE), prompt, seed=3, style_strength=1).images[0]
    assert everywhere.tobytes() == pipe.vary(image, prompt, seed=3, style_strength=1).images[0].tobytes()


def test_a_style_is_that_of_the_image_alone_wherever_its_parts_are(text: HartPipeline) -> None:
    schedule, quantizer = text.config.tokenizer.schedule, text.tokenizer.quantizer
    edit = text.prepare_edit(picture(4, 8), style_strength=1, aspect="1:1")  # a quarter of margin at both sides
    latent = torch.randn(
        quantizer.codebook.weight.shape[1], *schedule.final, generator=torch.Generator().manual_seed(0)
    )
    other = latent.clone()
    other[..., 0] = other[..., -1] = 0

    def penalty(latent: Tensor) -> Tensor:
        made = batch_edits([edit], lambda _: latent, quantizer, schedule)
        assert made is not None
        return made.images[0].penalty(1, torch.zeros(4, len(latent)), quantizer)

    assert torch.equal(penalty(latent), penalty(other))
    torch.testing.assert_close(penalty(latent.flip(1)), penalty(latent))
    edit = text.prepare_edit(picture(64, 1), style_strength=1, aspect="1:1")  # thinner than a token
    assert penalty(latent).std() > 0
    style = ImageEdit(latent, latent, (), strength=1.0, style=(quantizer.codebook.weight[[3, 5]],))
    costs = style.penalty(0, torch.zeros(1, len(latent)), quantizer)
    assert sorted(costs[0].topk(2, largest=False).indices.tolist()) == [3, 5]


@pytest.mark.parametrize("kind", ["text", "larger"])
def test_rows_with_and_without_edits_share_a_batch(kind: str, request: pytest.FixtureRequest) -> None:
    image, text = picture(), request.getfixturevalue(kind)
    images = [
        ImageRequest("a cat", seed=1),
        ImageRequest("a dog", seed=2, edit=text.prepare_edit(image, mask_of(*LEFT))),
        ImageRequest("a fox", seed=3, edit=text.prepare_variation(picture(seed=1), kept_scales=2)),
        ImageRequest("a cow", seed=4, edit=text.prepare_edit(image, source_prompt="a hen", kept_scales=1)),
        ImageRequest("a hen", seed=5, mix=PromptMix("a dog", (0, 0, 0.5, 1))),
        ImageRequest("a cat", seed=6, edit=text.prepare_variation(image, kept_scales=4)),
        ImageRequest("a fox", seed=7, edit=text.prepare_variation(image, style_strength=1)),
    ]
    sampling = text.config.sampling
    images[1] = replace(images[1], sampling=sampling.replace(guidance_scale=0.0), negative_prompt=None)
    images[2] = replace(images[2], sampling=sampling.replace(gumbel_smoothing=True))
    alone = torch.cat([latents(text, [image]) for image in images])
    together = latents(text, images)
    # the tolerances of the golden cases: guidance and clipping amplify rounding at single tokens
    assert (together - alone).abs().max() < 1e-2
    assert (together - alone).abs().mean() < 1e-3


@with_settings({}, {"top_k": 3}, {"top_p": 0.5}, {"guidance_scale": 0.0})
def test_an_edit_to_the_same_description_changes_nothing(pipe: HartPipeline, settings: dict[str, Any]) -> None:
    image, (prompt, other) = picture(), prompts(pipe)
    own = coded(pipe, image).indices
    sampling = pipe.config.sampling.replace(**settings)
    codes: dict[Any, list[Tensor]] = {}
    for target in (prompt, other):
        edit = pipe.prepare_edit(image, source_prompt=prompt, followed_scales=len(SCALES))
        states = pipe.generate_rows([ImageRequest(target, seed=7, sampling=sampling, edit=edit)])
        codes[target] = [state.steps[0].codes for state in states]
    assert all(map(torch.equal, codes[prompt], own))
    assert not all(map(torch.equal, codes[other], own))


def test_followed_codes_are_distributed_as_the_new_prompt_says() -> None:
    """Over codes drawn from the source's distribution, those that follow have the target's."""
    generator = torch.Generator().manual_seed(0)
    rows, codes = 40_000, 5
    source, target = torch.randn(2, 1, 1, codes, generator=generator).expand(-1, rows, -1, -1)
    own = source[:, 0].softmax(-1).multinomial(1, generator=generator)
    noise = SeededNoise(range(rows), torch.device("cpu"))
    everything = Candidates(target, None)
    numbers = noise.gumbel(0, torch.zeros(1, 1, dtype=torch.int64), everything)
    drawn = followed_codes(target, source, own, everything, numbers)
    found = drawn.flatten().bincount(minlength=codes) / rows
    assert (found - target[0, 0].softmax(-1)).abs().max() < 0.01
    kept = (drawn == own).float().mean()
    independent = (target[0, 0].softmax(-1) * source[0, 0].softmax(-1)).sum()
    assert kept > independent + 0.1
    few = followed_codes(target, source, own, filtered(target, 2, None), numbers)
    best = target[0, 0].topk(2).indices
    assert ((few == own) | torch.isin(few, best)).all()


def test_mixed_prompts_are_the_prompts_at_their_ends(pipe: HartPipeline) -> None:
    both, one = prompts(pipe), len(SCALES)
    for switch, alone in ((one, both[0]), (0, both[1])):
        mixed = pipe.mix(both, switch=switch, seed=2).images[0]
        assert mixed.tobytes() == pipe(alone, seed=2).images[0].tobytes()
    codes = []
    for images in ([ImageRequest(both[0], mix=PromptMix(both[1], (0, 0, 1, 1)))], [ImageRequest(both[0])]):
        codes.append([state.steps[0].codes for state in pipe.generate_rows(images)])
    assert [torch.equal(a, b) for a, b in zip(*codes, strict=True)][:2] == [True, True]


def test_an_image_that_does_not_fill_the_canvas_is_continued(text: HartPipeline) -> None:
    image = picture()
    (out,) = text.edit(image, None, "a cat", size="16x8").images
    (same,) = text.edit(image, None, "a cat", width=16, height=8).images
    assert same.tobytes() == out.tobytes()
    assert text.vary(image, width=16).images[0].size == text.mix(["a", "b"], width=16).images[0].size == (16, 8)
    assert out.size == (16, 8)
    middle = (4, 0, 12, 8)
    assert out.crop(middle).tobytes() == image.tobytes()
    edit = text.prepare_edit(picture(40, 20), size=8)
    assert edit.redraw is not None
    assert edit.redraw.sum(dim=0).tolist() == [4] * 8  # a half above and below together
    assert text.prepare_variation(picture(40, 21)).size == "12x6"  # its own shape, as many tokens
    assert text.prepare_variation(picture(40, 21)).redraw is None  # stretched by less than a token
    assert text.prepare_variation(picture(10, 8)).size == "10x8"  # a size that the model makes
    assert text.prepare_variation(picture(900, 9), size=8).size == "8x8"  # longer than any canvas


def test_masks_are_transparent_or_white_where_they_redraw(text: HartPipeline) -> None:
    image, area = picture(), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    area[:, : SIDE // 2] = True
    hole = image.convert("RGBA")
    hole.paste((255, 255, 255, 0), LEFT)
    black_hole = Image.new("RGBA", image.size, "white")
    black_hole.paste((0, 0, 0, 0), LEFT)
    for mask in (*(mask_of(*LEFT).convert(mode) for mode in ("L", "1", "RGB", "RGBA")), hole, black_hole):
        redraw = text.prepare_edit(image, mask).redraw
        assert redraw is not None
        assert torch.equal(redraw, area)
    edited = text.edit(hole, None, "a cat").images[0]
    assert edited.tobytes() == text.edit(hole, hole, "a cat").images[0].tobytes()


def test_a_transparent_part_shows_nowhere_in_its_edit(text: HartPipeline) -> None:
    """Neither its hidden colours nor the white of a viewer: at the soft border the rest is continued."""
    blue, canvas = (20, 40, 200), (2 * SIDE, SIDE)
    holes = [Image.new("RGBA", canvas, hidden) for hidden in ((0, 0, 0, 0), (255, 255, 255, 0), (255, 0, 0, 9))]
    for hole in holes:
        hole.paste((*blue, 255), (0, 0, SIDE, SIDE))
    for size in ("16x8", "8x4", "12x6"):  # as it is, and resampled
        edits = [text.prepare_edit(hole, size=size) for hole in holes]
        for edit in edits:
            assert edit.redraw is not None
            assert edit.redraw.any()
            assert (edit.pixels.flatten(1).int() - torch.tensor([blue]).T).abs().max() <= 3
    # a corner without a neighbour in its row or column, and an image of nothing else
    corner = Image.new("RGBA", (SIDE, SIDE))
    corner.paste((*blue, 255), (0, 0, SIDE // 2, SIDE // 2))
    assert torch.equal(text.prepare_edit(corner).pixels.unique(), torch.tensor(sorted(blue)))
    assert text.prepare_edit(Image.new("RGBA", (SIDE, SIDE))).pixels.unique().tolist() == [255]
    # what the mask keeps is on white
    kept = text.prepare_edit(holes[0], mask_of(0, 0, SIDE, SIDE, size=canvas)).pixels
    assert kept[:, :, SIDE:].unique().tolist() == [255]


def cut_short() -> Image.Image:
    """Opened, and not yet read, by PIL, which finds out only then."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:900]))


def test_edits_come_as_arrays_and_tensors_with_the_original_pixels(text: HartPipeline) -> None:
    image, array, tensor, latents = (
        text.edit(picture(), mask_of(), "a cat", output_type=kind).images for kind in ("pil", "np", "pt", "latent")
    )
    assert np.array_equal(array, np.stack(image).astype(np.float32) / 255)
    assert torch.equal(tensor, torch.from_numpy(array).movedim(-1, 1)) and not tensor.is_inference()
    assert latents.shape[1] == text.config.tokenizer.latent_channels


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda pipe: pipe.edit("cat.png", mask_of(), "a cat"), "must be a PIL image, not 'cat.png'"),
        (lambda pipe: pipe.edit(cut_short(), mask_of(), "a cat"), "image cannot be read as an image; .* cut off"),
        (lambda pipe: pipe.edit(picture(), cut_short(), "a cat"), "mask cannot be read as an image"),
        (lambda pipe: pipe.vary(np.zeros((8, 8, 3), np.uint8)), "make one of it with PIL.Image.fromarray"),
        (lambda pipe: pipe.edit(picture(), "m.png", "a cat"), "mask must be a PIL image"),
        (lambda pipe: pipe.edit(picture(), None, "a cat"), "nothing to redraw: give a mask"),
        (lambda pipe: pipe.edit(picture().convert("RGBA"), None, "a cat"), "nothing to redraw: give a mask"),
        (lambda pipe: pipe.edit(picture(), None, "a cat", followed_scales=2), "requires a source prompt"),
        (lambda pipe: pipe.edit(picture(), mask_of(size=(4, 4)), "a cat"), "the mask has 4x4 pixels, the image 8x8"),
        (lambda pipe: pipe.vary(picture(900, 9), "a cat"), "the image has 900x9 pixels, .* 8 times .*: give a size"),
        (lambda pipe: pipe.edit(picture(), mask_of(), "a cat", strength=1), "unknown argument 'strength'"),
        (lambda pipe: pipe.vary(picture(), kept_scales=5), "kept_scales 5: give a whole number, .* at most 4"),
        (lambda pipe: pipe.vary(picture(), style_strength=np.ones(2)), "style_strength .*: give a finite number"),
        (lambda pipe: pipe.vary(picture(), style_strength=-1), "style_strength -1.0: give a number from 0 to 10"),
        (lambda pipe: pipe.edit(picture(), None, "a cat", source_prompt=""), "source_prompt is empty"),
        (lambda pipe: pipe.edit(picture(), None, source_prompt="a cat"), "give a prompt too, which says what"),
        (lambda pipe: pipe.mix(["a cat"]), "give a list of two"),
        (lambda pipe: pipe.mix(["a cat", "a dog"], [0, 1]), "give 4 from 0 to 1, one for each scale"),
        (lambda pipe: pipe.mix(["a cat", "a dog"], [0, 1, 1, 1], switch=2), "either weights or a switch"),
        (lambda pipe: pipe("a cat", edit=pipe.prepare_variation(picture(10, 8))), "give size=edit.size"),
        (lambda pipe: pipe("a cat", mix=PromptMix(3, (0,) * 4)), "generates from text"),
        (lambda pipe: pipe("a cat", mix=PromptMix(" ", (0,) * 4)), "second prompt is empty"),
        (lambda pipe: pipe("a cat", mix=PromptMix("a dog", (0, 0, 0, 2))), "give 4 from 0 to 1"),
        (lambda pipe: pipe("a cat", mix="a dog"), "mix must be a PromptMix, not 'a dog'"),
        (lambda pipe: pipe("a cat", edit=picture()), "edit must be an Edit, as prepare_edit returns it"),
        (lambda pipe: pipe.edit(picture(), None, "a cat", source_prompt="a dog", mix=PromptMix("a fox", (0,) * 4)),
         "an image has one second prompt"),
        (lambda pipe: pipe.generate_rows([ImageRequest(pipe.encode_prompt(["a cat", "a dog"]))]), "prompt has 2 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_one_error(text: HartPipeline, call: Any, said: str) -> None:
    with pytest.raises(HartError, match=said):
        call(text)


@pytest.mark.parametrize("smaller", [None, ScaleSchedule.square((1, 4))], ids=["own codes", "codes of it made small"])
def test_hidden_parts_of_a_source_do_not_leak_into_coarse_scales(
    text: HartPipeline, smaller: ScaleSchedule | None
) -> None:
    """A kept position takes the mean of what stays of it, not of what is redrawn."""
    schedule, quantizer = text.config.tokenizer.schedule, text.tokenizer.quantizer
    edit = text.prepare_edit(picture(), mask_of(0, 0, 2, SIDE))  # a quarter
    found = []
    for hidden in (0.0, 100.0):
        latent = torch.ones(4, 4, 4)
        latent[..., 0] = hidden
        edits = batch_edits([edit], lambda *_, latent=latent: latent, quantizer, schedule, smaller)
        assert edits is not None
        found.append(edits.known_codes(0, torch.zeros(1, 4, 4, 4), schedule.grids[0], quantizer))
        assert not edits.generated(0).any()
    assert torch.equal(*found)
    assert torch.equal(found[0].flatten(), quantizer.nearest(torch.ones(1, 4)))
