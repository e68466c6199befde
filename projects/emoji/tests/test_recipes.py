"""Every recipe is read by its stage, and says how it is run."""

from __future__ import annotations

import pytest

from hart.training import StageRecipe, TokenizerRecipe, TransformerRecipe
from hart_emoji import RECIPES
from hart_emoji.text.distillation import TextDistillationRecipe


@pytest.mark.parametrize(
    ("name", "kind", "command"),
    [
        ("text_encoder", TextDistillationRecipe, "hart-emoji text-encoder"),
        ("tokenizer", TokenizerRecipe, "hart train tokenizer"),
        ("decoder", TokenizerRecipe, "hart train tokenizer"),
        ("transformer", TransformerRecipe, "hart train transformer"),
        ("further", TransformerRecipe, "hart train transformer"),
        ("large", TransformerRecipe, "hart train transformer"),
        ("lora", TransformerRecipe, "hart train transformer"),
    ],
)
def test_a_recipe_is_read_and_says_how_it_is_run(name: str, kind: type[StageRecipe], command: str) -> None:
    kind.read(RECIPES / f"{name}.toml")
    text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    assert f"{command} projects/emoji/recipes/{name}.toml" in text
