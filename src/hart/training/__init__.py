"""Training: the loop, and a task a stage, also one of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.training.config import (
        OptimizerConfig,
        Recipe,
        StageRecipe,
        TokenizerRecipe,
        TrainerConfig,
        TransformerRecipe,
    )
    from hart.training.encode_options import EncodeOptions
    from hart.training.encoding import EncodedSummary, Encoders, encode_dataset
    from hart.training.hart_task import TransformerTask
    from hart.training.progress import StepReport
    from hart.training.task import Engine, Origin, Part, Picture, Share, Task
    from hart.training.tokenizer_task import TokenizerTask
    from hart.training.trainer import Trainer

__all__ = [
    "EncodeOptions",
    "EncodedSummary",
    "Encoders",
    "Engine",
    "OptimizerConfig",
    "Origin",
    "Part",
    "Picture",
    "Recipe",
    "Share",
    "StageRecipe",
    "StepReport",
    "Task",
    "TokenizerRecipe",
    "TokenizerTask",
    "Trainer",
    "TrainerConfig",
    "TransformerRecipe",
    "TransformerTask",
    "encode_dataset",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.training.config": "OptimizerConfig Recipe StageRecipe TokenizerRecipe TrainerConfig TransformerRecipe",
        "hart.training.encode_options": "EncodeOptions",
        "hart.training.encoding": "EncodedSummary Encoders encode_dataset",
        "hart.training.hart_task": "TransformerTask",
        "hart.training.progress": "StepReport",
        "hart.training.task": "Engine Origin Part Picture Share Task",
        "hart.training.tokenizer_task": "TokenizerTask",
        "hart.training.trainer": "Trainer",
    },
)
