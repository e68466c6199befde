"""Training: `Trainer` is the loop, a `Task` one thing to train; `hart train` runs the two tasks of this package.

Your own stage has a `StageRecipe` and a `Task`; see projects/emoji.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.errors import Stopped
    from hart.networks.perceptual import perceptual_loss
    from hart.randomness import generator_for
    from hart.strict import Config, ConfigError, require
    from hart.training.config import (
        OptimizerConfig,
        ReadingConfig,
        Recipe,
        StageRecipe,
        TokenizerRecipe,
        TrainerConfig,
        TransformerRecipe,
    )
    from hart.training.distributed import DistributedContext
    from hart.training.encode_options import EncodeOptions
    from hart.training.encoding import EncodedSummary, Encoders, encode_dataset
    from hart.training.image_sources import open_training_data, require_versions
    from hart.training.optimizer import build_optimizer
    from hart.training.progress import StepReport
    from hart.training.task import Microbatch, OptimizedModule, Origin, Task, TrainContext
    from hart.training.tokenizer_task import TokenizerTask
    from hart.training.trainer import Trainer
    from hart.training.transformer_task import TransformerTask

# fmt: off
__all__ = [
    "Config", "ConfigError", "DistributedContext", "EncodeOptions", "EncodedSummary", "Encoders", "Microbatch",
    "OptimizedModule", "OptimizerConfig", "Origin", "ReadingConfig", "Recipe", "StageRecipe", "StepReport", "Stopped",
    "Task", "TokenizerRecipe", "TokenizerTask", "TrainContext", "Trainer", "TrainerConfig", "TransformerRecipe",
    "TransformerTask", "build_optimizer", "encode_dataset", "generator_for", "open_training_data",
    "perceptual_loss", "require", "require_versions",
]
# fmt: on

__getattr__, __dir__ = lazy(__name__)
