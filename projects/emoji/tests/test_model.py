"""The model that ships with hart is the one that the recipes describe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch.nn import functional as F

from hart import HartPipeline
from hart.files import read_toml
from hart.training import TransformerRecipe
from hart_emoji.data.build import STYLES
from hart_emoji.suites.sampling import variants

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def pipe() -> HartPipeline:
    return HartPipeline.from_pretrained("emoji", device="cpu")


def test_synonyms_mean_what_they_should(pipe: HartPipeline) -> None:
    """The feature of the first token is the meaning of the whole prompt."""
    synonyms = read_toml(RECIPES / "synonyms.toml")
    names = sorted({name.lower() for accepted in synonyms.values() for name in accepted})
    meanings = (pipe.text_encoder.encode(texts).embeddings[:, 0] for texts in (list(synonyms), names))
    words, known = (F.normalize(meaning, dim=-1) for meaning in meanings)
    order = (words @ known.T).argsort(descending=True).tolist()
    ranks = {
        word: min(nearest.index(names.index(name.lower())) for name in synonyms[word])
        for word, nearest in zip(synonyms, order, strict=True)
    }
    assert sum(rank < 5 for rank in ranks.values()) >= 0.95 * len(ranks)
    assert ranks["puppy"] == ranks["automobile"] == 0


def test_it_offers_the_styles_that_its_captions_name(pipe: HartPipeline) -> None:
    assert pipe.config.styles == tuple(f"{style.word} style" for style in STYLES.values())
    for recipe in ("transformer", "further", "large"):
        assert TransformerRecipe.read(RECIPES / f"{recipe}.toml").styles == pipe.config.styles


@pytest.mark.parametrize("recipe", ["transformer", "further", "lora", "large"])
def test_its_sizes_and_settings_are_the_recipes(pipe: HartPipeline, recipe: str) -> None:
    read, ours = TransformerRecipe.read(RECIPES / f"{recipe}.toml"), pipe.config
    assert read.diffusion is not None and ours.diffusion is not None
    if recipe == "large":  # goes on from it at another size, with settings of its own
        ours = ours.replace(transformer=ours.transformer.replace(position_span=read.transformer.position_span))
        assert read.transformer.replace(scales=ours.transformer.scales) == ours.transformer
        return
    assert read.transformer == ours.transformer
    assert read.diffusion.replace(batch_multiplier=ours.diffusion.batch_multiplier) == ours.diffusion
    assert read.sampling == ours.sampling
    assert (read.lora is not None) == (recipe == "lora")


def test_the_page_of_the_suites_measures_variants_that_it_has(pipe: HartPipeline) -> None:
    page = (RECIPES.parent / "docs" / "suites.md").read_text(encoding="utf-8")
    asked = re.findall(r"--only (\S+)", page)
    assert asked and set(asked) <= set(variants(pipe.config, pipe.sampling))
