"""Suites on images of which the feature extractor sees less than of others: a tenth of the work."""

from __future__ import annotations

import pytest

from hart.evaluation.metrics.features import LITE_IMAGE_SIZES


@pytest.fixture(autouse=True)
def _small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LITE_IMAGE_SIZES, 0, 64)
