"""One thread, one seed, and property tests that draw the same cases every time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "hart",
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("hart")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Modules take their first weights from the global generator."""
    torch.manual_seed(0)
