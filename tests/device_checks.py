"""That a device generates what the CPU does. Needs neither pytest nor hypothesis: `benchmarks/gpu.py` runs it too."""

from __future__ import annotations

from functools import cache

import torch
from PIL import Image, ImageChops, ImageStat
from torch import Tensor

from hart import HartPipeline, ImageRequest
from hart.config import HartConfig
from hart.data.transforms import unit_to_pixels
from hart.devices import exact_float32
from hart.generation.noise import SeededNoise
from hart.inference.speed import EXACT, LEVELS, Speed
from helpers import tiny_class_config, tiny_text_config

CONFIGS: dict[str, HartConfig] = {"text": tiny_text_config(), "class": tiny_class_config()}
LARGEST_DIFFERENCE = 2.0
"""Mean difference of a colour channel, of 255."""
SHORT_DTYPES = ("bfloat16", "float16")
RECORDED = {"graphs": Speed(weights="plain", graphs=True), "compiled": LEVELS["compiled"]}
"""Speeds of NVIDIA GPUs that leave the numbers as they are."""


@cache
def generate(kind: str, device: str, dtype: str, speed: Speed = EXACT) -> list[Image.Image]:
    """Two images of a tiny model with random weights; where scales are recorded, by a call that replays them."""
    pipe = HartPipeline.from_config(CONFIGS[kind], seed=0, device=device, dtype=dtype, speed=speed)
    prompts = ["a red apple", "a cat"] if pipe.num_classes is None else [1, 4]
    with exact_float32():
        if speed.graphs:
            pipe(prompts, seed=5)
        out = pipe(prompts, seed=3)
    assert [image.size for image in out.images] == [(pipe.image_size,) * 2] * 2
    return out.images


def difference(kind: str, device: str, dtype: str = "float32", speed: Speed = EXACT) -> float:
    """Largest mean difference of a colour channel, of 255, between a device's images and those of the CPU."""
    pairs = zip(generate(kind, device, dtype, speed), generate(kind, "cpu", "float32"), strict=True)
    return max(max(ImageStat.Stat(ImageChops.difference(ours, wanted)).mean) for ours, wanted in pairs)


def contrast(kind: str, device: str, dtype: str) -> float:
    """Smallest standard deviation of an image's colours, of 255: 0 for an image of one colour."""
    return min(max(ImageStat.Stat(image).stddev) for image in generate(kind, device, dtype))


def noise_difference(device: str) -> float:
    """The largest difference between a device's normal numbers and those of the CPU, whose keys must be equal."""
    ours, wanted = (SeededNoise([3, 2**62], torch.device(each)) for each in (device, "cpu"))
    assert torch.equal(ours.keys[0].cpu(), wanted.keys[0])
    positions = torch.arange(50).unsqueeze(0)
    return float((ours.residual(positions.to(device), 5, 4).cpu() - wanted.residual(positions, 5, 4)).abs().max())


def synchronizations(kind: str) -> list[str]:
    """What made the host wait for a CUDA device between text and pixels, by the profiler's names."""
    pipe = HartPipeline.from_config(CONFIGS[kind], seed=0, device="cuda", dtype="bfloat16")
    prompts = ["a red apple", "a cat"] if pipe.num_classes is None else [1, 4]
    sampling = pipe.config.sampling.replace(top_p=0.9)
    images = [
        ImageRequest(pipe.encode_prompt(prompt).to(pipe.device), seed=i, sampling=sampling.replace(guidance_scale=i))
        for i, prompt in enumerate(prompts)
    ]

    def pixels() -> Tensor:
        *_, last = pipe.generate_rows(images)
        return unit_to_pixels((pipe.tokenizer.decode(last.latent).float() + 1) / 2)

    with torch.inference_mode():
        pixels()  # kernels are loaded, and libraries have their memory
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        # acc_events: else PyTorch 2.11 warns of what later cycles, of which there are none, would drop
        with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            pixels()
    waits = ("cudaStreamSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense", "aten::nonzero")
    return [event.name for event in profiler.events() if event.name in waits]
