"""Images of a suite are generated once and kept; a stopped run continues and ends in the same images."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hart import HartPipeline
from hart.errors import HartError
from hart.evaluation.generated_images import GeneratedImages, evenly_chosen
from hart.evaluation.suites.base import silent

PROMPTS = ["a cat", "a dog", "a house", "a tree", "a cat"]


def test_images_are_those_of_the_pipeline_and_are_kept(text: HartPipeline, tmp_path: Path) -> None:
    sampling = text.config.sampling
    generated = GeneratedImages(text, PROMPTS, sampling, 7, tmp_path)
    assert generated.generate(1, silent) == 0
    expected = text(PROMPTS, seed=7).images
    for number, image in enumerate(expected):
        with Image.open(generated.path(number)) as written:
            assert written.tobytes() == image.tobytes()
    # a stop left two images out; what is there is not generated again
    for number in (1, 4):
        generated.path(number).unlink()
    Image.new("RGB", (8, 8), "white").save(generated.path(0))
    again = GeneratedImages(text, PROMPTS, sampling, 7, tmp_path)
    assert again.generate(1, silent) == 3
    assert int(again.pixels([0]).min()) == 255
    generated.path(0).write_bytes(b"no image")
    with pytest.raises(HartError, match=r"000000\.png: .*delete it, and it is computed again"):
        again.pixels([0])
    for number in (1, 4):
        with Image.open(generated.path(number)) as written:
            assert written.tobytes() == expected[number].tobytes()


def test_images_of_another_plan_are_not_taken_over(text: HartPipeline, tmp_path: Path) -> None:
    sampling = text.config.sampling
    for _ in range(2):
        GeneratedImages(text, PROMPTS, sampling, 7, tmp_path)
    for prompts, other, seed, said in (
        (PROMPTS[1:], sampling, 7, "prompts"),
        (PROMPTS, sampling.replace(guidance_scale=1.0), 7, r"sampling\.guidance_scale"),
        (PROMPTS[1:], sampling, 8, "seed, prompts"),
    ):
        with pytest.raises(HartError, match=f"which differ in {said}: choose another --out, or delete the folder"):
            GeneratedImages(text, prompts, other, seed, tmp_path)


@pytest.mark.parametrize(
    ("part", "choice", "value"), [("diffusion", "tokens_scale", 3.0), ("tokenizer", "phi_weight", 0.1)]
)
def test_images_of_another_configuration_are_not_taken_over(
    text_model: Path, tmp_path: Path, part: str, choice: str, value: float
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(text_model, model)

    def opened() -> GeneratedImages:
        pipe = HartPipeline.from_pretrained(model, device="cpu")
        return GeneratedImages(pipe, PROMPTS, pipe.sampling, 7, out)

    opened()
    config = json.loads((model / "config.json").read_text())
    config[part][choice] = value  # the weights stay
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(HartError, match=rf"which differ in model\.{part}\.{choice}: choose another --out"):
        opened()


def test_words_that_are_read_otherwise_make_another_plan(tmp_path: Path) -> None:
    pipe = HartPipeline.from_pretrained("emoji", device="cpu")
    GeneratedImages(pipe, PROMPTS, pipe.sampling, 7, tmp_path)
    pipe.text_encoder.reader.thesaurus.things.popitem()
    with pytest.raises(HartError, match=r"which differ in model\.text_encoder\.vocabulary"):
        GeneratedImages(pipe, PROMPTS, pipe.sampling, 7, tmp_path)


def test_all_prompts_are_checked_before_the_first_image(text: HartPipeline, tmp_path: Path) -> None:
    with pytest.raises(HartError, match="prompt 6"):
        GeneratedImages(text, [*PROMPTS, "a \ud800"], text.config.sampling, 7, tmp_path)


def test_a_part_has_as_many_of_each_task_as_can_be() -> None:
    tags = ["a"] * 10 + ["b"] * 3 + ["c"] * 10
    rows = evenly_chosen(tags, 12, seed=1)
    assert rows == sorted(set(rows))
    assert sorted(Counter(tags[row] for row in rows).values()) == [3, 4, 5]
    assert rows == evenly_chosen(tags, 12, seed=1) != evenly_chosen(tags, 12, seed=2)
    assert evenly_chosen(tags, None, 0) == evenly_chosen(tags, 99, 0) == list(range(23))
