"""One thread, one seed, and property tests with the same cases every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from models import save_tiny_class_model, save_tiny_text_model

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


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def class_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_class_model(tmp_path_factory.mktemp("class"))
