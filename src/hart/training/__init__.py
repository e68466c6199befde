"""Training: `Trainer` is the loop, a `Task` one thing to train; `hart train` runs the two tasks of this package.

A stage of your own has a `Config` for its recipe, which `read_recipe` reads, and a `Task`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.config import TextEncoderConfig, TokenizerConfig, TransformerConfig
    from hart.losses.config import Weight
    from hart.strict import Config, ConfigError, Listed, key_table, require
    from hart.training.checkpoint import Identity, RunFolder
    from hart.training.conditions import find_text_encoder
    from hart.training.config import (
        Images,
        OptimizerConfig,
        Rate,
        ReadingConfig,
        Recipe,
        Steps,
        StepsOrNone,
        TokenizerRecipe,
        TrainerConfig,
        TransformerRecipe,
    )
    from hart.training.distributed import Processes
    from hart.training.hart_task import TransformerTask
    from hart.training.image_sources import open_training_data
    from hart.training.optimizer import CombinedOptimizer, build_optimizer, learning_rate
    from hart.training.progress import StepReport
    from hart.training.randomness import generator_for, seed_of
    from hart.training.recipe_files import read_recipe
    from hart.training.saved_state import DamagedError, read_saved, require_tensor, require_tensors, table
    from hart.training.stopping import StopSignal
    from hart.training.task import Engine, Origin, Part, Share, Task
    from hart.training.tokenizer_task import TokenizerTask
    from hart.training.trackers import LOG_FILE
    from hart.training.trainer import Trainer

# fmt: off
__all__ = [
    "LOG_FILE", "CombinedOptimizer", "Config", "ConfigError", "DamagedError", "Engine", "Identity", "Images",
    "Listed", "OptimizerConfig", "Origin", "Part", "Processes", "Rate", "ReadingConfig", "Recipe", "RunFolder",
    "Share", "StepReport", "Steps", "StepsOrNone", "StopSignal", "Task", "TextEncoderConfig", "TokenizerConfig",
    "TokenizerRecipe", "TokenizerTask", "Trainer", "TrainerConfig", "TransformerConfig", "TransformerRecipe",
    "TransformerTask", "Weight", "build_optimizer", "find_text_encoder", "generator_for", "key_table",
    "learning_rate", "open_training_data", "read_recipe", "read_saved", "require", "require_tensor",
    "require_tensors", "seed_of", "table",
]
# fmt: on

__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.config": "TextEncoderConfig TokenizerConfig TransformerConfig",
        "hart.losses.config": "Weight",
        "hart.strict": "Config ConfigError Listed key_table require",
        "hart.training.checkpoint": "Identity RunFolder",
        "hart.training.conditions": "find_text_encoder",
        "hart.training.config": "Images OptimizerConfig Rate ReadingConfig Recipe Steps StepsOrNone "
        "TokenizerRecipe TrainerConfig TransformerRecipe",
        "hart.training.distributed": "Processes",
        "hart.training.hart_task": "TransformerTask",
        "hart.training.image_sources": "open_training_data",
        "hart.training.optimizer": "CombinedOptimizer build_optimizer learning_rate",
        "hart.training.progress": "StepReport",
        "hart.training.randomness": "generator_for seed_of",
        "hart.training.recipe_files": "read_recipe",
        "hart.training.saved_state": "DamagedError read_saved require_tensor require_tensors table",
        "hart.training.stopping": "StopSignal",
        "hart.training.task": "Engine Origin Part Share Task",
        "hart.training.tokenizer_task": "TokenizerTask",
        "hart.training.trackers": "LOG_FILE",
        "hart.training.trainer": "Trainer",
    },
)
