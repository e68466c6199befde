"""What a dry run estimates from a few measured steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hart.losses.config import TransformerLossConfig
from hart.training import dry_run
from hart.training.config import TrainerConfig, TransformerRecipe
from hart.training.distributed import DistributedContext
from hart.training.dry_run import (
    RehearsedTransformer,
    activation_bytes,
    checkpoint_bytes,
    measure,
    memory_of_weights,
)
from hart.training.task import Microbatch, OptimizedModule
from helpers import tiny_text_config, transformer_recipe
from toy_training import OPTIMIZER, TRAINER, ToyTask

CPU = torch.device("cpu")


def test_memory_is_shared_out() -> None:
    assert list(memory_of_weights(100, 80, "adamw").values()) == [400, 320, 640, 320]
    assert list(memory_of_weights(100, 80, "muon", split=4).values()) == [100, 80, 80, 80]
    assert checkpoint_bytes(100, 80, "adamw") == 4 * (100 + 80 + 160)


def test_a_step_is_timed_after_one_that_warms_up_unless_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda module: None)

    def timed(tokens: int, *moments: float, compiled: bool = False) -> float:
        clock: Callable[[], float] = iter(itertools.accumulate(moments)).__next__
        return measure(ToyTask(), TRAINER.replace(compile=compiled), DistributedContext(TRAINER), tokens, clock)

    assert timed(100, 0, 5, 0, 3) == 3 / 4, "the whole batch of 4 images"
    assert timed(2048, 0, 5, 0, 3) == 3 / 2
    assert timed(10_000, 0, 50) == 50
    assert timed(10_000, 0, 50, 0, 3, compiled=True) == 3, "the first step is nearly all of the compiler"


class Chain(ToyTask):
    """Blocks that each keep their input and their output: a product with a weight (W, W), then tanh."""

    width, depth = 64, 6

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(self.width, self.width, bias=False) for _ in range(self.depth)]
        self.chain = nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers))
        self.optimized = {"model": OptimizedModule(self.chain, OPTIMIZER, list(self.chain))}

    def batch(self, microbatch: Microbatch) -> Tensor:
        return microbatch.mine(torch.rand(microbatch.batch_size, self.width, generator=microbatch.generator("points")))

    def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.chain(batch).mean(), {}


def test_activations_are_what_the_two_passes_hold_at_once() -> None:
    rows, one = 1024, 1024 * Chain.width * 4
    plain = activation_bytes(Chain(), TRAINER, rows)
    # the images, one output a block, and while going back the gradients of what is worked on
    assert (Chain.depth + 1) * one <= plain <= (Chain.depth + 5) * one
    assert activation_bytes(Chain(), TRAINER, 2 * rows) == pytest.approx(2 * plain, rel=0.02)


def test_copies_of_weights_do_not_grow_with_the_batch() -> None:
    lean = TRAINER.replace(precision="bfloat16")
    copy = Chain.width**2 * 2
    few, many = (activation_bytes(Chain(), lean, rows) for rows in (256, 512))
    assert 2 * few - many >= (Chain.depth - 1) * copy, "counted once, but for the last block's, which is done with"
    assert many < activation_bytes(Chain(), TRAINER, 512)


def tiny_recipe(trainer: TrainerConfig, depth: int) -> TransformerRecipe:
    return transformer_recipe(tiny_text_config(depth=depth), trainer=trainer, optimizer=OPTIMIZER)


def test_blocks_that_are_computed_again_hold_less() -> None:
    def held(trainer: TrainerConfig) -> int:
        return activation_bytes(RehearsedTransformer(tiny_recipe(trainer, depth=4), CPU, empty=True), trainer, 4)

    assert held(TRAINER.replace(activation_checkpointing=True)) < 0.7 * held(TRAINER)


def test_many_images_hold_what_a_few_let_expect() -> None:
    recipe = tiny_recipe(TRAINER, depth=1)
    counted = activation_bytes(dry_run.at_its_largest(recipe), TRAINER, 256)
    assert dry_run.activations_of(recipe, 256) == pytest.approx(counted, rel=0.02)


def test_a_large_image_is_counted_and_timed_as_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(TRAINER, depth=1)
    large = recipe.replace(transformer=recipe.transformer.replace(scales=(1, 2, 3, 4, 6, 8, 11, 15, 20, 27)))
    assert dry_run.at_a_size_to_try(large) is large
    counted = dry_run.activations_of(large, 4)
    for limit in ("LARGEST_IMAGE", "MEASURED_TOKENS"):
        monkeypatch.setattr(dry_run, limit, 1000)
    tried = dry_run.at_a_size_to_try(large)
    assert isinstance(tried, TransformerRecipe) and tried.transformer.scales == (1, 2, 3, 4, 6, 8, 11, 15, 20)
    assert dry_run.activations_of(large, 4) == pytest.approx(counted, rel=0.05)


def test_a_step_looks_for_wrong_codes_as_that_of_the_run() -> None:
    recipe = tiny_recipe(TRAINER, depth=1)
    sizes = recipe.transformer.replace(masked_last_scale=True)
    recipe = recipe.replace(transformer=sizes, drop_last_scale=False, code_corruption=1.0)
    maps = RehearsedTransformer(recipe, CPU).batch(Microbatch(0, 0, 8, slice(0, 8))).maps
    assert maps.given is not None
    assert ((maps.given >= 0) & (maps.given != maps.indices[-1])).any()


@pytest.mark.parametrize("masked", [False, True])
def test_a_model_without_memory_is_counted_as_one_with(masked: bool) -> None:
    loss = TransformerLossConfig(scale_weights=(2.0, 1.0), cluster_weight=0.5, clusters=4)
    recipe = tiny_recipe(TRAINER, depth=1)
    sizes = recipe.transformer.replace(masked_last_scale=masked)
    recipe = recipe.replace(loss=loss, transformer=sizes, drop_last_scale=not masked, code_corruption=0.3 * masked)
    tasks = (RehearsedTransformer(recipe, CPU, empty=empty) for empty in (False, True))
    assert len({activation_bytes(task, TRAINER, 4) for task in tasks}) == 1
