"""Images of other sizes than a model's own, from Python and from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from command_line import refused, run
from hart import HartError, HartPipeline, ImageRequest, SamplingConfig, ScalePreview
from hart.generation.metadata import read_record
from helpers import tiny_text_config


@pytest.fixture(scope="module")
def pipe(text_model: Path) -> HartPipeline:
    return HartPipeline.from_pretrained(text_model, device="cpu")


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ({"size": "16x8"}, (16, 8)),
        ({"size": 12}, (12, 12)),
        ({"height": 4, "width": 16}, (16, 4)),
        ({"aspect": "1:2"}, (6, 12)),
    ],
)
def test_images_have_the_size_that_was_asked_for(pipe: HartPipeline, wanted: dict[str, Any], size: Any) -> None:
    seen: list[ScalePreview] = []
    out = pipe("a cat", **wanted, callback_on_scale=seen.append)
    assert out.images[0].size == size
    assert [preview.k for preview in seen] == list(range(seen[0].scales))
    assert seen[0].images()[0].size == size
    assert out.images[0].tobytes() == seen[-1].images()[0].tobytes()


def test_all_ways_to_ask_agree(pipe: HartPipeline) -> None:
    image = pipe("a cat", seed=3, size="12x8", maskgit_steps=2).images[0]
    latent = pipe.generate(pipe.encode_prompt("a cat"), seed=3, height=8, width=12, maskgit_steps=2)
    assert latent.shape[2:] == (4, 6)
    assert pipe.decode(latent)[0].tobytes() == image.tobytes()
    (*_, last) = pipe.generate_rows([ImageRequest("a cat", 3), ImageRequest("a dog", 4)], size="12x8")
    assert pipe.decode(last.latent)[0].size == (12, 8)


def test_a_size_alone_and_the_models_own_are_the_same(pipe: HartPipeline) -> None:
    own = pipe("a cat", seed=5).images[0].tobytes()
    for wanted in ({"size": 8}, {"size": "8x8"}, {"height": 8}, {"aspect": "1:1"}):
        assert pipe("a cat", seed=5, **wanted).images[0].tobytes() == own


def test_an_image_of_another_size_is_the_one_made_alone(pipe: HartPipeline) -> None:
    out = pipe(["a cat", "a dog"], num_images_per_prompt=2, seed=7, size="6x12", batch_size=4)
    for image, prompt, seed in zip(out.images, out.prompts, out.seeds, strict=True):
        assert pipe(prompt, seed=seed, size="6x12").images[0].tobytes() == image.tobytes()


def test_settings_are_checked_against_the_size(pipe: HartPipeline) -> None:
    with pytest.raises(HartError, match="17 are more than the 16 tokens"):
        pipe("a cat", maskgit_steps=17)
    assert pipe("a cat", maskgit_steps=17, size="12x8").images[0].size == (12, 8)
    with pytest.raises(HartError, match="16 are more than the 8 tokens"):
        pipe("a cat", maskgit_steps=16, size="8x4")
    scales = len(pipe.config.transformer.scales)
    for name in ("unguided_scales", "greedy_scales"):
        assert pipe("a cat", size=8, **{name: scales}).images
        with pytest.raises(HartError, match=f"{name}: {scales + 1} are more than the {scales} scales"):
            pipe("a cat", size=8, **{name: scales + 1})


def test_a_small_image_takes_what_it_can_of_the_models_own_settings() -> None:
    own = SamplingConfig(unguided_scales=3, greedy_scales=3)
    pipe = HartPipeline.from_config(tiny_text_config().replace(sampling=own), device="cpu")
    (made_with,) = pipe("a cat", size=4).sampling
    assert (made_with.unguided_scales, made_with.greedy_scales) == (2, 2)
    assert pipe("a cat", size=8).sampling == [own]


@pytest.mark.parametrize("shape", [(1, 4, 2, 5), (2, 4, 3, 3)])
def test_latents_of_any_shape_are_decoded(pipe: HartPipeline, shape: tuple[int, ...]) -> None:
    images = pipe.decode(torch.zeros(shape), "pt")
    assert images.shape == (shape[0], 3, 2 * shape[2], 2 * shape[3])


def test_the_command_line_writes_other_sizes_and_makes_them_again(text_model: Path, tmp_path: Path) -> None:
    options = ("--model", text_model, "--out", tmp_path)
    result = run("generate", "a cat", "a dog", "--size", "12x8", "--grid", *options)
    assert "note: the model was trained at 8x8 px only: at 12x8 things come out stretched or doubled" in result.stderr
    cat, dog, sheet = map(Path, result.stdout.splitlines())
    for path in (cat, dog):
        with Image.open(path) as image:
            assert image.size == (12, 8)
    with Image.open(sheet) as image:
        assert image.width > 2 * 12
    assert read_record(cat).settings.size == "12x8"
    again = run("generate", "--like", dog, "--out", tmp_path / "again").stdout.strip()
    assert Path(again).read_bytes() == dog.read_bytes()
    tall = run("generate", "--like", dog, "--aspect", "1:4", "--out", tmp_path / "tall").stdout.strip()
    with Image.open(tall) as image:
        assert image.size == (4, 16)
    assert "near it: 8x6, 8x8" in refused(run("generate", "a cat", "--size", "8x7", *options))


def test_info_tells_the_schedule_and_cost_of_a_size(text_model: Path) -> None:
    def told(*options: str) -> str:
        return run("info", text_model, *options).stdout

    assert "12 x 8 px" in told("--size", "12x8")
    assert "1, 2, 4x2, 5x3, 6x4" in told("--size", "12x8")
    assert told("--size", "8") == told()
    assert told("--aspect", "4:1") == told("--size", "16x4")
