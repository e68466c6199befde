"""Sets that tests of training read."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_files import write_numbered_shards
from toy_training import tiny_encoded_set


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, `images`, and `codes` made of both."""
    return tiny_encoded_set(tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    write_numbered_shards(path, shards=4, each=3, damaged=(4,))
    return path
