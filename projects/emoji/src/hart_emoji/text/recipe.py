"""The recipe of stage `text-encoder`, read strictly from `recipes/*.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hart.config import MAX_SEED, Config, TextEncoderConfig, require
from hart.training.bounds import LARGEST, MOST_IMAGES, MOST_STEPS, require_above, require_within
from hart.training.recipe_files import read_recipe


@dataclass(frozen=True)
class TextDistillationRecipe(Config):
    """One distillation run: the student's sizes, where its words come from, and how long it learns."""

    stage: ClassVar[str] = "text-encoder"

    encoder: TextEncoderConfig
    teacher: str
    """Folder of a BERT-like sentence encoder (mean pooling), or the name of a Python package with one in `model/`."""
    wordnet: str
    """Folder of the WordNet database files."""
    emoji_packages: str = ""
    """Folder of the npm archives of `emojibase-data` and `emojilib`; empty for the cache of the emoji data set."""
    combinations: int = 80_000
    """Phrases made from templates."""
    steps: int = 1500
    batch_size: int = 512
    learning_rate: float = 2e-3
    warm_up: int = 100
    weight_decay: float = 0.01
    sentence_weight: float = 1.0
    token_weight: float = 0.5
    relation_weight: float = 0.5
    """Weight of matching the similarities within the batch."""
    temperature: float = 0.05
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.encoder.kind == "compact", "TextDistillationRecipe.encoder must be of kind 'compact'")
        require_within(self, 1, MOST_STEPS, "steps", "save_every")
        require_within(self, 1, MOST_IMAGES, "batch_size", "combinations")
        require_within(self, 0, MOST_STEPS, "warm_up")
        require_within(self, 0, MAX_SEED, "seed")
        require_within(self, 0, LARGEST, "weight_decay", "sentence_weight", "token_weight", "relation_weight")
        require_above(self, 0, LARGEST, "learning_rate", "temperature")

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = ()) -> TextDistillationRecipe:
        """Reads a TOML recipe; raises `ConfigError` naming the file and the key."""
        return read_recipe(cls, cls.stage, path, overrides)
