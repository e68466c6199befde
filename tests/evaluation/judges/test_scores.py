"""CLIP score and HPS v2: what torchmetrics gives for the same model, and the texts as CLIP reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from clip_models import IMAGE_SIZE, POSITIONS, save_tiny_clip
from hart.errors import HartError
from hart.evaluation.judges.scores import ClipScore

CPU = torch.device("cpu")
PROMPTS = ["a cat", "Two dogs!", "a", "green"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_clip(tmp_path_factory.mktemp("models") / "clip-tiny"))


@pytest.fixture
def pixels() -> torch.Tensor:
    shape = (len(PROMPTS), 3, IMAGE_SIZE, IMAGE_SIZE)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Processor:
    """What torchmetrics asks of transformers' processor, for images of the right size."""

    def __init__(self, source: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(source)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        if text is not None:
            return self.tokenizer(text, **options)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return {"pixel_values": torch.stack([(image / 255 - mean) / std for image in images])}


class Towers(torch.nn.Module):
    """torchmetrics 1.9 expects of the towers what they gave before transformers 5: tensors."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.model = CLIPModel.from_pretrained(source).eval()
        self.config = SimpleNamespace()

    def get_image_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model.get_text_features(*inputs).pooler_output


def test_clip_score_is_that_of_torchmetrics(source: str, pixels: torch.Tensor) -> None:
    scorer = ClipScore(source, CPU)
    assert (scorer.name, scorer.image_size) == ("CLIP score (clip-tiny)", IMAGE_SIZE)
    scores = scorer(pixels, PROMPTS)
    assert scores.dtype == torch.float64 and len(set(scores.tolist())) > 1
    from torchmetrics.multimodal import CLIPScore

    metric = CLIPScore(lambda: (Towers(source), Processor(source)))
    metric.eval()
    raw = []
    with torch.no_grad():
        for image, prompt in zip(pixels, PROMPTS, strict=True):
            metric.update(image, prompt)
            raw.append(float(metric.score))
            metric.reset()
    # the metric sums what it has seen; below 0 we clamp each, it clamps the mean
    torch.testing.assert_close(scores, torch.tensor(raw, dtype=torch.float64).clamp(min=0), rtol=1e-4, atol=1e-4)
    assert scorer.weights == ClipScore(source, CPU, "HPS v2").weights


def test_hps_is_not_clamped_and_has_its_own_name(source: str, pixels: torch.Tensor) -> None:
    scorer, clip = ClipScore(source, CPU, "HPS v2"), ClipScore(source, CPU)
    assert scorer.name == "HPS v2 (clip-tiny)"
    # a text far from everything: some cosines are negative
    values = torch.cat([scorer(pixels, [word] * len(pixels)) for word in PROMPTS])
    clamped = torch.cat([clip(pixels, [word] * len(pixels)) for word in PROMPTS])
    assert float(values.min()) < 0 == float(clamped.min())
    torch.testing.assert_close(values.clamp(min=0), clamped)


def test_long_prompts_are_cut_with_their_end_kept_and_neighbours_change_nothing(
    source: str, pixels: torch.Tensor
) -> None:
    scorer = ClipScore(source, CPU, "HPS v2")
    longest = "x" * (POSITIONS - 2)
    one = pixels[:1].expand(4, -1, -1, -1)
    scores = scorer(one, [longest + "yz", longest + "abcdef", longest, "a"])
    torch.testing.assert_close(scores[0], scores[1])
    # here the last letter ends the word, which is another piece
    assert abs(float(scores[0] - scores[2])) > 1e-3
    torch.testing.assert_close(scores[3:], scorer(one[3:], ["a"]), rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_be_fetched_is_one_line_with_its_address(
    monkeypatch: pytest.MonkeyPatch, reachable_hub: None
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network:\nsee the manual")

    monkeypatch.setattr(CLIPModel, "from_pretrained", unreachable)
    with pytest.raises(HartError) as error:
        ClipScore("openai/clip-vit-large-patch14", CPU)
    assert "(no network: see the manual)" in str(error.value)
    assert "fetch it elsewhere from https://huggingface.co/openai/clip-vit-large-patch14" in str(error.value)
