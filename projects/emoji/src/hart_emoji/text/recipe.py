"""The recipe of stage `text-encoder`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from hart import HartError
from hart.text_encoder import TextEncoderConfig
from hart.training import StageRecipe

Weight = Annotated[float, Field(ge=0, le=1e9)]


class TextDistillationRecipe(StageRecipe, kw_only=True):
    """One distillation run: the student's sizes, where its words come from, and how long it learns."""

    stage: ClassVar[str] = "text-encoder"

    encoder: TextEncoderConfig
    teacher: str
    """Folder of a BERT-like sentence encoder (mean pooling), or the name of a Python package with one in `model/`."""
    wordnet: str
    """Folder of the WordNet database files."""
    emoji_packages: str = ""
    """Folder of the npm archives of `emojibase-data` and `emojilib`; empty for the cache of the emoji data set."""
    combinations: Annotated[int, Field(ge=1, le=10**6)] = 80_000
    """Phrases made from templates."""
    sentence_weight: Weight = 1.0
    token_weight: Weight = 0.5
    relation_weight: Weight = 0.5
    """Weight of matching the similarities within the batch."""
    temperature: Annotated[float, Field(gt=0, le=1e9)] = 0.05

    def __post_init__(self) -> None:
        if self.encoder.kind != "compact":
            raise HartError("encoder.kind must be 'compact'")
