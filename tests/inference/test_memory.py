"""What images take is known before they are begun, and what a machine does not have is not asked of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import refused, run
from hart import HartPipeline, devices
from hart.checkpoint.loading import build
from hart.config import HartConfig
from hart.devices import free_memory, without_memory
from hart.generation.image_requests import ImageRequest
from hart.inference import memory
from hart.inference.memory import image_memory
from hart.inference.speed import Speed
from hart.presets import PRESETS
from hart.sizes import requested_schedule
from hart.text_encoder import RandomTextFeatures
from hart.training.dry_run import LiveBytes
from helpers import tiny_text_config

META = torch.device("meta")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> HartPipeline:
    """As wide as the 0.7B model, without memory."""
    # autocast, which the head turns off, knows no device without memory
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    config: HartConfig = PRESETS["hart-0.7b-512"]()
    config = config.replace(transformer=config.transformer.replace(depth=2))
    with without_memory():
        tokenizer, hart = build(config)
    assert config.transformer.text is not None
    encoder = RandomTextFeatures(config.transformer.text, 0)
    return HartPipeline(config, tokenizer, hart, device=META, dtype=torch.float32, text_encoder=encoder)


@pytest.mark.parametrize(("cache", "kept"), [("model", None), ("int8", torch.int8)])
def test_the_estimate_is_what_pytorch_allocates(large: HartPipeline, cache: Any, kept: torch.dtype | None) -> None:
    large.components.hart.transformer.cache_type = kept
    schedule = requested_schedule(large.config, size=512)
    with LiveBytes() as generating:
        for state in large.generate_rows([ImageRequest("a picture", seed=0)], size=512):
            latent = state.latent
    for tiled in (False, True):
        large.tokenizer.in_strips = tiled
        with LiveBytes() as decoding:
            large.tokenizer.decode(latent)
        found = image_memory(large.config, schedule, 2, 4, Speed(cache=cache, tiled=tiled))
        assert found.cache + found.scale == pytest.approx(generating.peak, rel=0.25)
        assert found.decoder == pytest.approx(decoding.peak, rel=0.05)


def test_an_image_that_memory_cannot_hold_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, options = tmp_path / "config.json", ["--random-weights", "--device", "cpu", "--out", tmp_path / "out"]
    config.write_text(tiny_text_config().to_json())
    command = ["generate", "a cat", "--model", config, *options, "--size", "16"]
    free = 1_500_000  # three
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    message = refused(run(*command, "--batch-size", "4"))
    assert "4 images together of 16x16 px would take about 0.0 GB" in message
    assert "choose --batch-size 3 or --cache int8 or a smaller --size" in message
    free = 10_000
    assert "--batch-size" not in refused(run(*command))
    assert not list((tmp_path / "out").glob("*.png"))
    free = 10**9
    assert run(*command).exit_code == 0


def test_memory_within_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        "meminfo": "MemTotal: 900 kB\nMemAvailable: 500 kB\nSwapFree: 100 kB\n",
        "memory.max": "300000\n",
        "memory.stat": "anon 100000\nfile 9\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(devices, "Path", lambda name: tmp_path / Path(name).name if "mem" in name else tmp_path)
    cpu = torch.device("cpu")
    assert free_memory(cpu) == 200_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(cpu) == 600 * 1024
    (tmp_path / "meminfo").unlink()
    assert free_memory(cpu) == devices.machine_memory()
    assert free_memory(META) is None
