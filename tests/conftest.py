"""One thread, one seed, property tests with the same cases every time, and models that many tests use.

Imports stand where they are needed: the process that only hands out tests is then ready at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hart import HartPipeline


@pytest.hookimpl(optionalhook=True)  # xdist may not be there
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, since many tests wait: for processes, a browser, a cluster of their own."""
    return (os.cpu_count() or 1) + 1


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Before any test asks for examples."""
    if not isinstance(collector, pytest.Directory):
        return
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


def pytest_sessionstart() -> None:
    """Signals mean what they do in a terminal; a shell has what it starts in the background ignore Ctrl-C. Matplotlib,
    which torchmetrics imports, says nothing on standard error where it is slow."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: looking for garbage in it takes a twentieth of the suite's time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch computes with so many threads."""
    import torch

    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _files_need_not_survive_a_power_cut() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses what is no open file, too
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Modules take their first weights from the global generator."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder, `tmp_path`; not that of libraries which look once, when they are imported, and would keep
    it for all other tests."""
    import huggingface_hub.constants  # noqa: F401

    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def reachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test gives its own answers in place of the hub's; nothing connects to it."""
    monkeypatch.setattr("hart.hub._connect", lambda host, port: None)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and nothing set for the hub's library, whatever this machine has."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test writes to."""
    from models import save_tiny_text_model

    return save_tiny_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def class_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models import save_tiny_class_model

    return save_tiny_class_model(tmp_path_factory.mktemp("class"))


@pytest.fixture(scope="session")
def emoji() -> HartPipeline:
    """The shipped model, which no test changes."""
    from hart import HartPipeline

    return HartPipeline.from_pretrained("emoji", device="cpu")


@pytest.fixture(scope="module")
def text(text_model: Path) -> HartPipeline:
    from hart import HartPipeline

    return HartPipeline.from_pretrained(text_model, device="cpu")


@pytest.fixture(scope="module")
def classes(class_model: Path) -> HartPipeline:
    from hart import HartPipeline

    return HartPipeline.from_pretrained(class_model, device="cpu")
