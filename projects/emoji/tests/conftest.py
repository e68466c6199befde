"""One thread, one seed, and the archives that the builder of the set asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emoji_packages import write_packages

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Modules take their first weights from the global generator."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny stand-in for all of them, to which no test writes."""
    return write_packages(tmp_path_factory.mktemp("packages"))
