"""Figures for Prometheus, of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
ROWS = (1, 2, 4, 8, 16, 32, 64)
PARTS = ("queue", "sample", "preview", "decode", "encode")
OUTCOMES = ("finished", "failed", "cancelled", "late", "split")


class Metrics:
    """Queue, batch sizes, seconds by part, images by outcome, answers by path and status, and the process: its memory,
    CPU time and open files."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.waiting = Gauge("hart_waiting_images", "Images in the queue", registry=registry)
        self.posts = Gauge(
            "hart_open_requests", "Requests for images that are being read or wait for an answer", registry=registry
        )
        self.batch = Histogram("hart_batch_images", "Images of a batch", buckets=ROWS, registry=registry)
        self.seconds = Histogram(
            "hart_seconds",
            "Seconds by part: queue (an image waits), sample (a scale of a batch), preview and decode (images of a "
            "batch), encode (an image)",
            ["part"],
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter(
            "hart_images",
            "Images by outcome: finished, failed, cancelled, late; split: had to be repeated in a smaller batch",
            ["outcome"],
            registry=registry,
        )
        self.answers = Counter("hart_answers", "Answers by path and status", ["path", "status"], registry=registry)
        self.answer = Histogram(
            "hart_answer_seconds", "Seconds to a whole answer by path", ["path"], buckets=SECONDS, registry=registry
        )
        for part in PARTS:  # at 0 from the start, so that the first one is an increase
            self.seconds.labels(part)
        for outcome in OUTCOMES:
            self.images.labels(outcome)

    def text(self) -> bytes:
        """Return the figures in Prometheus' format."""
        return generate_latest(self.registry)
