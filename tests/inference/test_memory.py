"""What images take is known before they are begun, and what a machine does not have is not asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from command_line import refused, run
from hart import HartPipeline, devices
from hart.checkpoint.loading import build
from hart.config import HartConfig
from hart.devices import free_memory, without_memory
from hart.errors import HartError
from hart.generation.requests import ImageRequest
from hart.inference import memory
from hart.inference.memory import image_memory
from hart.inference.speed import Speed
from hart.presets import PRESETS
from hart.sizes import requested_schedule
from hart.text_encoder import RandomTextFeatures
from hart.training.dry_run import LiveBytes
from helpers import tiny_text_config

META = torch.device("meta")


def large(dtype: torch.dtype) -> HartPipeline:
    """As wide as the 0.7B model, without memory."""
    config: HartConfig = PRESETS["hart-0.7b-512"]()
    config = config.replace(transformer=config.transformer.replace(depth=2))
    with without_memory():
        tokenizer, hart = build(config)
    assert config.transformer.text is not None
    encoder = RandomTextFeatures(config.transformer.text, 0)
    return HartPipeline(config, tokenizer, hart, device=META, dtype=dtype, text_encoder=encoder)


@pytest.mark.parametrize(
    ("dtype", "cache", "kept"),
    [(torch.float32, "model", None), (torch.float16, "model", None), (torch.float32, "int8", torch.int8)],
)
def test_the_estimate_is_what_pytorch_allocates(dtype: torch.dtype, cache: Any, kept: torch.dtype | None) -> None:
    pipe = large(dtype)
    pipe.components.hart.transformer.cache_type = kept
    schedule = requested_schedule(pipe.config, size=512)
    with LiveBytes() as generating:
        for state in pipe.generate_rows([ImageRequest("a picture", seed=0)], size=512):
            latent = state.latent
    # either way to decode is measured once
    tiled = pipe.tokenizer.in_strips = kept is not None
    with LiveBytes() as decoding:
        pipe.tokenizer.decode(latent)
    found = image_memory(pipe.config, pipe.components, schedule, 2, Speed(cache=cache, tiled=tiled))
    assert found.cache + found.scale == pytest.approx(generating.peak, rel=0.25)
    assert found.decoder == pytest.approx(decoding.peak, rel=0.05)


@torch.no_grad()
def test_patches_enlarge_images_not_the_decoder_s_maps() -> None:
    pipe = large(torch.float32)
    config = pipe.config.replace(tokenizer=pipe.config.tokenizer.replace(patch_size=2))
    schedule = requested_schedule(config, size=1024)
    with without_memory():
        tokenizer, _ = build(config)
        with LiveBytes() as decoding:
            image = tokenizer.decode(torch.empty(1, config.tokenizer.latent_channels, *schedule.final))
    assert image.shape[2:] == (1024, 1024)
    estimate = image_memory(config, pipe.components, schedule, 2, Speed())
    assert estimate.decoder == pytest.approx(decoding.peak, rel=0.05)


@pytest.mark.parametrize(
    ("rows", "command"),
    [
        (2, "generate cat"),
        (4, "generate cat -n 3 --batch-size 2"),
        (4, "generate --prompts-file {}/prompts.txt --batch-size 8"),
        (1, "generate cat --guidance 0"),
        (3, "mix cat dog --batch-size 8"),
        (4, "mix cat dog -n 2 --batch-size 2 --guidance 0"),
        (3, "generate --like {}/mixed.png"),
        (3, "edit {}/image.png dog --source-prompt cat"),
        (2, "vary {}/image.png cat --batch-size 8"),
    ],
)
def test_memory_is_asked_for_the_rows_that_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int, command: str
) -> None:
    config, free = tiny_text_config(), 10**9
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "prompts.txt").write_text("cat\ndog\n")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "image.png")
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    options = ["--model", tmp_path / "config.json", "--random-weights", "--device", "cpu", "--size", "16"]
    if "--like" in command:
        made = run("mix", "cat", "dog", *options, "--out", tmp_path / "like")
        Path(made.stdout.strip()).rename(tmp_path / "mixed.png")
    arguments = [*command.replace("{}", str(tmp_path)).split(), *options, "--out", tmp_path / "out"]
    parts = HartPipeline.from_config(config, device="cpu").components
    enough = image_memory(config, parts, requested_schedule(config, size=16), rows, Speed()).most
    free = enough - 1
    assert "px would take about" in refused(run(*arguments))
    assert not list((tmp_path / "out").glob("*.png"))
    free = enough
    result = run(*arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("levels", [(), ("published",), ("exact", "int8")])
def test_a_benchmark_is_advised_what_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, levels: tuple[str, ...]
) -> None:
    config = tiny_text_config()
    (tmp_path / "config.json").write_text(config.to_json())
    hart = HartPipeline.from_config(config, device="cpu", speed="plain").components
    schedule, eager = requested_schedule(config), "published" in levels
    two_images = image_memory(config, hart, schedule, 4, Speed(), eager=eager).most
    if len(levels) > 1:  # of which each has weights of its own
        two_images += sum(parameter.nbytes for parameter in hart.hart.parameters())
    monkeypatch.setattr(memory, "free_memory", lambda _: two_images)
    arguments = ["benchmark", tmp_path / "config.json", "--device", "cpu", "--batch-size", "3"]
    message = refused(run(*arguments, *(f"--speed={level}" for level in levels)))
    assert message.endswith(": choose --batch-size 2 or a smaller --size")
    assert ("copy of its weights" in message) == (len(levels) > 1)


def test_on_a_gpu_one_image_is_asked_for_one(monkeypatch: pytest.MonkeyPatch, text: HartPipeline) -> None:
    """Where four are made together, if there are as many."""
    schedule = requested_schedule(text.config)
    two_images = image_memory(text.config, text.components, schedule, 4, Speed()).most
    monkeypatch.setattr("hart.pipeline.default_batch", lambda _: 4)
    monkeypatch.setattr(memory, "free_memory", lambda _: two_images)
    for images in (1, 2):
        text.require_memory(schedule, images)
    with pytest.raises(HartError, match="4 images together"):
        text.require_memory(schedule, 9)


@pytest.mark.parametrize(
    ("size", "images", "free", "advice"),
    [
        (512, 4096, 3.5e9, "--batch-size 3 or "),
        (512, 4, 1.0e9, "--batch-size 2 --cache int8 or "),
        (512, 4, 0.4e9, ""),
        (1024, 1, 3.5e9, "--cache int8 or "),
        (1024, 1, 3.0e9, "--cache int8 --tiled or "),
    ],
)
def test_the_advice_is_what_fits(
    monkeypatch: pytest.MonkeyPatch, text: HartPipeline, size: int, images: int, free: float, advice: str
) -> None:
    """Of the 0.7B model, with guidance."""
    config = PRESETS["hart-0.7b-512"]()
    schedule = requested_schedule(config, size=size)
    monkeypatch.setattr(memory, "free_memory", lambda _: int(free))
    with pytest.raises(HartError) as error:
        memory.require_memory(config, text.components, schedule, images, 2)
    message, chosen = str(error.value).split(": choose ")
    assert chosen == f"{advice}a smaller --size"
    assert message.endswith(f"{free / 1e9:g} GB are free" if free >= 1e9 else f"{free / 1e6:g} MB are free")
    if advice:
        batch = int(advice.split()[1]) if "--batch-size" in advice else images
        speed = Speed(cache="int8" if "--cache" in advice else "model", tiled="--tiled" in advice)
        assert image_memory(config, text.components, schedule, 2 * batch, speed).most <= free


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
