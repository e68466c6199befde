"""The model that ships with hart is the one that the recipes describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hart import HartPipeline
from hart.training import TransformerRecipe
from hart_emoji.data.build import STYLES
from hart_emoji.text.retrieval import accuracy, read_synonyms, retrieve

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def pipe() -> HartPipeline:
    return HartPipeline.from_pretrained("emoji", device="cpu")


def test_synonyms_mean_what_they_should(pipe: HartPipeline) -> None:
    """The feature of the first token is the meaning of the whole prompt."""
    synonyms = read_synonyms(RECIPES / "synonyms.toml")
    names = sorted({name for accepted in synonyms.values() for name in accepted})

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return pipe.text_encoder.encode(list(texts)).embeddings[:, 0]

    results = retrieve(embed, synonyms, names)
    assert accuracy(results, 5) >= 0.95
    assert {r.rank for r in results if r.prompt in ("puppy", "automobile")} == {1}


def test_it_offers_the_styles_that_its_captions_name(pipe: HartPipeline) -> None:
    assert pipe.config.styles == tuple(f"{style.word} style" for style in STYLES.values())
    for recipe in ("transformer", "further", "large"):
        assert TransformerRecipe.read(RECIPES / f"{recipe}.toml").styles == pipe.config.styles


@pytest.mark.parametrize("recipe", ["transformer", "lora"])
def test_its_sizes_and_settings_are_the_recipes(pipe: HartPipeline, recipe: str) -> None:
    read = TransformerRecipe.read(RECIPES / f"{recipe}.toml")
    assert read.transformer == pipe.config.transformer
    assert read.diffusion == pipe.config.diffusion
    assert read.sampling == pipe.config.sampling
    assert (read.lora is not None) == (recipe == "lora")
