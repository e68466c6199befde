"""What a dry run reckons from a few measured steps."""

from __future__ import annotations

import itertools

import pytest

from hart.training.distributed import Processes
from hart.training.dry_run import Measurement, deeper, estimate, measure
from toy_training import TRAINER, ToyTask


def test_each_further_block_adds_what_the_second_added() -> None:
    assert deeper(Measurement(2, 100, 1.0), Measurement(2, 130, 1.5), 24) == Measurement(2, 100 + 23 * 30, 1 + 23 * 0.5)


def test_memory_and_time_grow_with_the_batch_and_are_shared_out() -> None:
    config = TRAINER.replace(batch_size=64, accumulate=4)
    measured = Measurement(rows=2, activation_bytes=1000, seconds=0.1)
    one = estimate(100, 80, "adamw", config, measured, processes=1, sharded=False)
    assert (one.weights, one.gradients, one.moments, one.average) == (400, 320, 640, 320)
    assert one.activations == 1000 * 64 // 4 // 2, "one of the four parts at a time"
    assert one.step_seconds == pytest.approx(0.1 * 64 / 2)
    four = estimate(100, 80, "adamw", config, measured, processes=4, sharded=True)
    assert (four.weights, four.moments, four.activations) == (100, 160, one.activations // 4)
    assert four.checkpoint == one.checkpoint == 4 * (100 + 80 + 160)


def test_activations_are_those_kept_for_the_backward_pass() -> None:
    clock = itertools.count().__next__
    plain = measure(ToyTask(), TRAINER, Processes(TRAINER), clock)
    assert (plain.rows, plain.seconds) == (2, 1)
    lean = TRAINER.replace(activation_checkpointing=True)
    assert 0 < measure(ToyTask(), lean, Processes(lean), clock).activation_bytes <= plain.activation_bytes
