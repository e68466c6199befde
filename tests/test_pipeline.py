"""The Python interface: what comes out, what it depends on, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from torch import nn

from hart import HartError, HartPipeline, ImageRequest, ScalePreview
from hart.checkpoint.folders import TEXT_ENCODER_FILE
from hart.config import SamplingConfig, TextConditioning
from hart.inference.kernels import int8_range
from hart.inference.packing import is_packed, packing_refusal, treats_rows_alike
from hart.text_encoder.base import RandomTextFeatures
from helpers import CLASSES, SCALES, TEXT_TOKENS, TEXT_WIDTH, store_adapter, tiny_text_config
from models import save_tiny_text_model

PROMPTS = ["a red apple", "a cat"]


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


def decoder_calls(module: nn.Module) -> list[int]:
    """A list that grows by one with every call of the module."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_images_come_prompt_by_prompt_with_growing_seeds(text: HartPipeline) -> None:
    out = text(PROMPTS, num_images_per_prompt=2, seed=5)
    assert out.prompts == [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    assert out.seeds == [5, 6, 7, 8]
    assert [image.size for image in out.images] == [(text.image_size, text.image_size)] * 4
    assert len(set(pixels(out.images))) == 4


@pytest.mark.parametrize("kind", ["text", "classes"])
def test_an_image_is_the_one_made_alone_with_its_seed(kind: str, request: pytest.FixtureRequest) -> None:
    pipe: HartPipeline = request.getfixturevalue(kind)
    prompts: list[Any] = PROMPTS if kind == "text" else [1, 4]
    out = pipe(prompts, num_images_per_prompt=2, seed=7)
    for image, prompt, seed in zip(out.images, out.prompts, out.seeds, strict=True):
        assert pipe(prompt, seed=seed).images[0].tobytes() == image.tobytes()


def test_the_batch_size_changes_rounding_only(text: HartPipeline) -> None:
    alone = text(PROMPTS, num_images_per_prompt=2, batch_size=1)
    for batch_size in (2, 3, 100):
        together = text(PROMPTS, num_images_per_prompt=2, batch_size=batch_size)
        for one, other in zip(alone.images, together.images, strict=True):
            assert max(ImageStat.Stat(ImageChops.difference(one, other)).mean) < 1


def test_a_call_leaves_the_global_generator_alone(text: HartPipeline) -> None:
    before = torch.get_rng_state()
    text("a cat")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"gumbel_smoothing": False},
        {"maskgit_steps": 3},
        {"diffusion_steps": 2},
        {"discrete_only": True},
    ],
)
def test_every_setting_changes_the_image(text: HartPipeline, change: dict[str, Any]) -> None:
    assert text("a cat", **change).images[0].tobytes() != text("a cat").images[0].tobytes()


def test_settings_come_from_the_call_then_from_sampling_then_from_the_model(text: HartPipeline) -> None:
    assert text(PROMPTS).sampling == [text.config.sampling] * 2
    base = SamplingConfig(guidance_scale=2.0, top_k=7)
    assert text("a cat", sampling=base, top_k=0).sampling == [base.replace(top_k=None)]


def test_previews_come_once_a_scale_and_are_decoded_only_when_looked_at(text: HartPipeline) -> None:
    calls = decoder_calls(text.tokenizer.decoder)
    seen: list[ScalePreview] = []
    out = text("a cat", num_images_per_prompt=3, batch_size=2, maskgit_steps=2, callback_on_scale=seen.append)
    assert len(calls) == 3  # the images themselves
    order = [(preview.batch, preview.k) for preview in seen]
    assert order == [(batch, k) for batch in range(2) for k in range(len(SCALES))]
    assert {(preview.batches, preview.scales) for preview in seen} == {(2, len(SCALES))}
    assert [list(preview.image_numbers) for preview in seen[:: len(SCALES)]] == [[0, 1], [2]]
    last = seen[-1].images()
    assert len(calls) == 4
    assert pixels(last) == pixels(out.images[2:])
    assert pixels(text("a cat", num_images_per_prompt=3, maskgit_steps=2).images) == pixels(out.images)


@pytest.mark.parametrize(("kind", "dtype"), [("text", "bf16"), ("text", "float16"), ("class", torch.bfloat16)])
def test_short_number_types(kind: str, dtype: Any, text_model: Path, class_model: Path) -> None:
    folder = text_model if kind == "text" else class_model
    pipe = HartPipeline.from_pretrained(str(folder), device="cpu", dtype=dtype)
    assert pipe.hart.transformer.word_embed.weight.dtype in (torch.bfloat16, torch.float16)
    seen: list[ScalePreview] = []
    out = pipe("a cat" if kind == "text" else 2, callback_on_scale=seen.append)
    assert all(preview.latent.dtype == torch.float32 and preview.latent.isfinite().all() for preview in seen)
    assert out.images[0].size == (pipe.image_size, pipe.image_size)
    assert math.isfinite(pipe.reconstruct(out.images[0]).hybrid_psnr)


def test_numbers_that_leave_their_range_are_an_error(text_model: Path) -> None:
    pipe = HartPipeline.from_pretrained(str(text_model), device="cpu")
    pipe.hart.transformer.head.linear.bias.data.fill_(math.inf)
    with pytest.raises(HartError, match="not finite in float32: weights, an adapter or latents hold numbers far too"):
        pipe("a cat")
    with pytest.raises(HartError, match="not finite in float32"):
        pipe.generate(pipe.encode_prompt("a cat"))
    with pytest.raises(HartError, match="not finite in float16: use float32 or bfloat16"):
        pipe.to(torch.float16)("a cat")


def test_an_image_that_is_not_finite_is_an_error(text_model: Path) -> None:
    pipe = HartPipeline.from_pretrained(str(text_model), device="cpu")
    pipe.tokenizer.decoder.conv_out.bias.data.fill_(math.nan)
    with pytest.raises(HartError, match="not finite"):
        pipe("a cat")


def test_reconstruction_cuts_a_square_and_measures_what_is_lost(text: HartPipeline) -> None:
    wide = Image.effect_noise((40, 20), 60).convert("L")
    result = text.reconstruct(wide)
    size = (text.image_size, text.image_size)
    assert result.original.size == result.discrete.size == result.hybrid.size == size
    assert result.original.mode == "RGB"
    for image, psnr in ((result.discrete, result.discrete_psnr), (result.hybrid, result.hybrid_psnr)):
        difference = ImageStat.Stat(ImageChops.difference(image, result.original))
        error = sum(difference.sum2) / sum(difference.count) / 255**2
        assert psnr == pytest.approx(-10 * math.log10(error), abs=0.2)  # of the images rounded to 8 bits


def test_the_text_encoder_is_read_when_the_first_prompt_comes(tmp_path: Path) -> None:
    folder = save_tiny_text_model(tmp_path)
    (folder / TEXT_ENCODER_FILE).unlink()
    pipe = HartPipeline.from_pretrained(str(folder), device="cpu")
    pipe.reconstruct(Image.new("RGB", (8, 8), "red"))
    with pytest.raises(HartError, match=TEXT_ENCODER_FILE):
        pipe("a cat")


@pytest.mark.parametrize("default", [torch.float16, torch.float64, torch.device("meta")])
def test_the_type_and_place_of_tensors_that_torch_makes_matter_to_no_image(
    text_model: Path, class_model: Path, default: torch.dtype | torch.device
) -> None:
    """As of programs that begin with `torch.set_default_device("cuda")`."""
    source = Image.linear_gradient("L")

    def called() -> list[bytes]:
        pipe = HartPipeline.from_pretrained(text_model, device="cpu")
        edited = pipe.edit(source, source, "a cat", source_prompt="a dog", style=source)
        classes = HartPipeline.from_pretrained(class_model, device="cpu")
        return pixels([*pipe("a cat").images, *edited.images, *pipe.mix(PROMPTS).images, *classes(1).images])

    expected, dtype = called(), torch.get_default_dtype()
    if isinstance(default, torch.device):
        torch.set_default_device(default)
    else:
        torch.set_default_dtype(default)
    try:
        assert called() == expected
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)


def test_autocast_around_calls_and_opening_changes_no_image(tmp_path: Path) -> None:
    """As of programs for pipelines whose type is the program's; packed layers could not even run in it."""
    config, source = tiny_text_config(width=512, heads=4, depth=1), Image.linear_gradient("L")
    kernels = int8_range() > 0
    store_adapter(HartPipeline.from_config(config, device="cpu").hart, tmp_path / "lora", alpha=2.0, value=0.1)

    def called() -> list[Any]:
        for trial in (packing_refusal, int8_range, treats_rows_alike):
            trial.cache_clear()  # the processor is asked anew
        pipe = HartPipeline.from_config(config, device="cpu")
        pipe.load_lora(tmp_path / "lora")
        *_, last = pipe.generate_rows([ImageRequest("a cat", edit=pipe.prepare_variation(source))])
        latents = [last.latent, pipe.generate(pipe.encode_prompt("a cat"))]
        images = [*pipe("a cat").images, *pipe.vary(source).images, pipe.reconstruct(source).hybrid]
        if kernels:
            images += HartPipeline.from_config(config, device="cpu", speed="int8")("a cat").images
        found = pixels([*images, *pipe.decode(latents[0])])
        return [[latent.tolist() for latent in latents], found, is_packed(pipe.components.hart)]

    expected = called()
    with torch.autocast("cpu", torch.bfloat16):
        assert called() == expected


@pytest.mark.parametrize("label", ["a cat", CLASSES, -1, True])
def test_a_class_model_takes_its_class_numbers_only(classes: HartPipeline, label: Any) -> None:
    with pytest.raises(HartError, match=f"0 to {CLASSES - 1}"):
        classes([label])


def test_maskgit_steps_need_residual_diffusion(classes: HartPipeline) -> None:
    with pytest.raises(HartError, match="maskgit_steps"):
        classes(1, maskgit_steps=2)
    with pytest.raises(HartError, match="diffusion_steps: this model has no residual diffusion"):
        classes(1, diffusion_steps=2)


@pytest.mark.parametrize(
    ("device", "message"), [("tpu", "unknown device"), ("cuda:99", "cuda:99"), ("meta", "unknown")]
)
def test_refuses_devices_that_are_not_there(text_model: Path, device: str, message: str) -> None:
    with pytest.raises(HartError, match=message):
        HartPipeline.from_pretrained(str(text_model), device=device)


@pytest.mark.parametrize("dtype", ["float8", torch.float64])
def test_refuses_other_number_types(text_model: Path, dtype: Any) -> None:
    with pytest.raises(HartError, match="bfloat16"):
        HartPipeline.from_pretrained(str(text_model), device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("tokens", "width"), [(TEXT_TOKENS + 1, TEXT_WIDTH), (TEXT_TOKENS, TEXT_WIDTH + 1)], ids=["tokens", "width"]
)
def test_a_text_encoder_of_other_sizes_is_refused(text_model: Path, tokens: int, width: int) -> None:
    encoder = RandomTextFeatures(TextConditioning(width=width, tokens=tokens), seed=0)
    message = f"gives {tokens} tokens of width {width}, the transformer takes {TEXT_TOKENS} of width {TEXT_WIDTH}"
    with pytest.raises(HartError, match=message):
        HartPipeline.from_pretrained(str(text_model), device="cpu", text_encoder=encoder)


def test_a_class_model_takes_no_text_encoder(classes: HartPipeline) -> None:
    encoder = RandomTextFeatures(TextConditioning(), seed=0)
    with pytest.raises(HartError, match="generates classes by number: it takes no text encoder"):
        assert classes.text_encoder
    with pytest.raises(HartError, match="generates classes"):
        HartPipeline(
            classes.config, classes.tokenizer, classes.hart, device=classes.device, dtype=classes.dtype,
            text_encoder=encoder,
        )  # fmt: skip


def test_a_model_without_text_encoder_says_so(text: HartPipeline) -> None:
    config = text.config.replace(text_encoder=None)
    pipe = HartPipeline(config, text.tokenizer, text.hart, device=text.device, dtype=text.dtype)
    with pytest.raises(HartError, match="names no text encoder"):
        pipe("a cat")


def test_fingerprints_tell_weights_of_any_part_from_others(tmp_path: Path) -> None:
    # wide enough that its layers are packed on processors where that helps
    config = tiny_text_config(width=256, heads=4)
    pipe = HartPipeline.from_config(config, seed=0, device="cpu")
    ours = pipe.fingerprints()
    assert ours == HartPipeline.from_config(config, seed=0, device="cpu").fingerprints()
    others = HartPipeline.from_config(config, seed=1, device="cpu").fingerprints()
    assert set(ours) == {"transformer", "tokenizer", "text_encoder"}
    assert all(ours[part] != others[part] for part in ours)
