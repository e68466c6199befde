"""Throughput and the share of the peak, by a clock that the test moves."""

from __future__ import annotations

from itertools import accumulate

import pytest

from hart.training.progress import Speed, Work
from toy_training import TRAINER


def test_speed_follows_the_clock() -> None:
    times = iter([0.0, 2.0, 4.0])
    work = Work(macs=1_000_000, weight_macs=1_000_000, tokens=7)
    speed = Speed(TRAINER, work, peak=24e6, clock=lambda: next(times))
    assert speed.step(1, {}).images_per_second == 2.0
    report = speed.step(2, {"loss": 1.0})
    assert report.mfu == pytest.approx(2 * 6e6 / 24e6)
    assert report.tokens_per_second == 2 * 7
    assert report.figures == {"loss": 1.0}


def test_slow_steps_count_as_long_as_they_take() -> None:
    """A mean of the steps' rates, as of 10 and 0.5 steps per second here, would be five times too high."""
    times = accumulate([0.0, *[0.1, 1.9] * 20])
    speed = Speed(TRAINER, None, peak=1.0, clock=lambda: next(times))
    reports = [speed.step(i, {}) for i in range(1, 41)]
    assert reports[-1].images_per_second == pytest.approx(TRAINER.batch_size)
