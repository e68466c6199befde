"""What a step is said to cost is what it costs, counted operator by operator, also with most weights frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hart.training.config import LoraConfig, OptimizerConfig, TokenizerRecipe, TrainerConfig
from hart.training.dry_run import RehearsedTokenizer, RehearsedTransformer
from hart.training.progress import work_of
from hart.training.task import Microbatch
from helpers import tiny_text_config, tiny_tokenizer_config, transformer_recipe

CONFIG = tiny_text_config(depth=4, width=64)
TEXT = CONFIG.transformer.text
assert TEXT is not None
LORA: Any = LoraConfig(rank=4, alpha=4, targets=("attention", "mlp", "word_embed"))


@pytest.mark.parametrize(
    "lora", [None, LORA, LORA.replace(targets=("mlp",))], ids=["all", "adapters", "MLPs' adapters"]
)
def test_operations_of_both_passes(lora: LoraConfig | None) -> None:
    init_from = "" if lora is None else "a model"
    recipe = transformer_recipe(CONFIG, init_from=init_from, drop_last_scale=False, lora=lora)
    task = RehearsedTransformer(recipe, torch.device("cpu"))
    batch = task.batch(Microbatch(0, 0, 1, slice(0, 1)))
    with FlopCounterMode(display=False) as counter:
        task.loss("model", batch)[0].backward()
    work = work_of(recipe)
    # the first layer needs no gradient of its inputs, and little else that leads to the adapters
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert work.tokens == CONFIG.transformer.schedule.total_tokens - 1 + TEXT.tokens
    if lora is not None:
        assert work.flops < 4.3 * work.macs


@pytest.mark.parametrize("alone", [False, True], ids=["all", "the decoder alone"])
def test_operations_of_a_tokenizer(alone: bool) -> None:
    trainer, optimizer = TrainerConfig(steps=1, batch_size=1), OptimizerConfig(learning_rate=1e-3)
    sizes = tiny_tokenizer_config()
    init_from = "a tokenizer" if alone else ""
    recipe = TokenizerRecipe(
        data="", tokenizer=sizes, trainer=trainer, optimizer=optimizer, decoder_only=alone, init_from=init_from
    )
    task = RehearsedTokenizer(recipe, torch.device("cpu"))
    batch = task.batch(Microbatch(0, 0, 1, slice(0, 1)))
    with FlopCounterMode(display=False) as counter:
        task.loss("model", batch)[0].backward()
    # the first trained layer needs no gradient of its inputs
    assert work_of(recipe).flops == pytest.approx(counter.get_total_flops(), rel=0.05)
