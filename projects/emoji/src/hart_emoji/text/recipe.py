"""The recipe of stage `text-encoder`, read strictly from `recipes/*.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from hart.config import Config, Seed, TextEncoderConfig, require
from hart.losses.config import Weight
from hart.training.config import Images, Rate, Steps, StepsOrNone
from hart.training.recipe_files import read_recipe


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
    combinations: Images = 80_000
    """Phrases made from templates."""
    steps: Steps = 1500
    batch_size: Images = 512
    learning_rate: Rate = 2e-3
    warm_up: StepsOrNone = 100
    weight_decay: Weight = 0.01
    sentence_weight: Weight = 1.0
    token_weight: Weight = 0.5
    relation_weight: Weight = 0.5
    """Weight of matching the similarities within the batch."""
    temperature: Rate = 0.05
    save_every: Steps = 250
    seed: Seed = 0

    def __post_init__(self) -> None:
        require(self.encoder.kind == "compact", "encoder.kind must be 'compact'")

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = ()) -> TextDistillationRecipe:
        """Reads a TOML recipe; raises `ConfigError` naming the file and the key."""
        return read_recipe(cls, cls.stage, path, overrides)
