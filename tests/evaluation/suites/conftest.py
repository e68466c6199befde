"""Suites on images of which the feature extractor sees less than of others: a tenth of the work."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.evaluation.metrics.features.LITE0_IMAGE_SIZE", 64)
