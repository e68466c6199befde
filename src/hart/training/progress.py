"""Progress of a run: averages of figures, throughput, time left, share of the device's peak (MFU)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hart.training.config import TrainerConfig
from hart.training.work import Work


class Means:
    """Averages each figure over the steps that report it."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The averages since the last call."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


@dataclass(frozen=True)
class StepReport:
    """Where a run stands after a step; `figures` are those of the last step that is known, on a CPU this one."""

    step: int
    steps: int
    images_per_second: float
    seconds_left: float
    tokens_per_second: float | None
    mfu: float | None
    figures: Mapping[str, float]


class Speed:
    """Images per second, smoothed over about the last twenty steps."""

    def __init__(self, config: TrainerConfig, work: Work | None, peak: float, clock: Callable[[], float]) -> None:
        """work: of an image; None if unknown. peak: operations per second of all devices."""
        self.config = config
        self.work = work
        self.peak = peak
        self.clock = clock
        self.rate = 0.0
        self._steps = 0
        self._last = clock()

    def step(self, done: int, figures: Mapping[str, float]) -> StepReport:
        """Count a step that has just ended, the one numbered `done` from 1."""
        now = self.clock()
        rate = self.config.batch_size / max(now - self._last, 1e-9)
        self._last = now
        self._steps += 1
        self.rate += (rate - self.rate) / min(self._steps, 20)
        left = (self.config.steps - done) * self.config.batch_size / self.rate
        tokens = None if self.work is None else self.rate * self.work.tokens
        mfu = None if self.work is None else self.rate * self.work.flops / self.peak
        return StepReport(done, self.config.steps, self.rate, left, tokens, mfu, figures)
