"""Which device is chosen, and that an accelerator draws what the CPU draws (skipped where there is none)."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from hart import HartPipeline
from hart.config import HartConfig
from hart.devices import resolve_device
from helpers import tiny_class_config, tiny_text_config

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")

devices = pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=needs_cuda), pytest.param("mps", marks=needs_mps)], ids=["cuda", "mps"]
)
kinds = pytest.mark.parametrize("kind", ["text", "class"])


def tiny(kind: str) -> HartConfig:
    return tiny_text_config() if kind == "text" else tiny_class_config()


def draw(config: HartConfig, device: str, dtype: str) -> list[Image.Image]:
    pipe = HartPipeline.from_config(config, seed=0, device=device, dtype=dtype)
    prompts = ["a red apple", "a cat"] if pipe.num_classes is None else [1, 4]
    out = pipe(prompts, seed=3)
    assert [image.size for image in out.images] == [(config.tokenizer.image_size,) * 2] * 2
    return out.images


def test_mps_is_taken_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps").type == "mps"
    for cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert resolve_device(None).type == ("cuda" if cuda else "cpu")


@kinds
@devices
def test_a_device_draws_the_pictures_of_the_cpu(device: str, kind: str) -> None:
    config = tiny(kind)
    for ours, wanted in zip(draw(config, device, "float32"), draw(config, "cpu", "float32"), strict=True):
        assert max(ImageStat.Stat(ImageChops.difference(ours, wanted)).mean) < 2  # of 255


@kinds
@devices
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_device_draws_in_short_number_types(device: str, kind: str, dtype: str) -> None:
    for image in draw(tiny(kind), device, dtype):
        assert max(ImageStat.Stat(image).stddev) > 0
