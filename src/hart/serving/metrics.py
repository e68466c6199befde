"""Figures for Prometheus, of one server."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Queue, batch sizes, seconds by part, images by outcome, answers by status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._waiting = Gauge("hart_waiting_images", "Images in the queue", registry=self.registry)
        self._batch = Histogram("hart_batch_images", "Images of a batch", buckets=ROWS, registry=self.registry)
        self._seconds = Histogram(
            "hart_seconds",
            "Seconds by part: queue (an image waits), sample (a scale of a batch), preview and decode (images of a "
            "batch), encode (an image), answer (a whole request)",
            ["part"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._images = Counter(
            "hart_images",
            "Images by outcome: finished, failed, cancelled, late; split: had to be done again in a smaller batch",
            ["outcome"],
            registry=self.registry,
        )
        self._answers = Counter(
            "hart_answers", "Answers by path and status", ["path", "status"], registry=self.registry
        )

    def queued(self, rows: int) -> None:
        self._waiting.set(rows)

    def started(self, rows: int, waited: Sequence[float]) -> None:
        """A batch starts; seconds that each of its rows has waited."""
        self._batch.observe(rows)
        for seconds in waited:
            self.took("queue", seconds)

    def took(self, part: str, seconds: float) -> None:
        self._seconds.labels(part).observe(seconds)

    def ended(self, how: str, rows: int = 1) -> None:
        """Rows are `finished`, `failed`, `cancelled` or `late`, or a batch was `split`."""
        self._images.labels(how).inc(rows)

    def answered(self, path: str, status: int) -> None:
        self._answers.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
