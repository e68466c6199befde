"""The archives that the builder asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from emoji_packages import write_packages


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder with a tiny stand-in for all of them."""
    return write_packages(tmp_path / "cache")
