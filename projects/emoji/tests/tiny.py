"""A tiny model and tiny images on disk, made as a user would make them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hart import HartConfig, HartPipeline

SIZE = 8
CONFIG = {
    "tokenizer": {
        "scales": [1, 2, 3, 4],
        "base_channels": 32,
        "channel_multipliers": [1, 1],
        "residual_blocks": 1,
        "latent_channels": 4,
        "codebook_size": 24,
    },
    "transformer": {
        "scales": [1, 2, 3, 4],
        "latent_channels": 4,
        "codebook_size": 24,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "text": {"width": 384, "tokens": 16},
    },
    "diffusion": {"width": 16, "depth": 2, "sampling_steps": 4},
}
"""A hybrid text model of 8 x 8 pixels, for the text encoder of the emoji model."""


def save_model(folder: Path) -> Path:
    """With random weights and the shipped text encoder."""
    pipe = HartPipeline.from_config(HartConfig.from_dict(CONFIG), device="cpu")
    text_encoder = HartPipeline.from_pretrained("emoji", device="cpu").text_encoder
    parts = pipe.config, pipe.tokenizer, pipe.hart
    HartPipeline(*parts, device=pipe.device, dtype=pipe.dtype, text_encoder=text_encoder).save_pretrained(folder)
    return folder


def save_images(folder: Path, count: int) -> None:
    """A split `train` of images 0, 1, ... of one colour, each with two captions."""
    (folder / "train").mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (12, 8), (number, 100, 200)).save(folder / "train" / f"{number:04d}.png")
        (folder / "train" / f"{number:04d}.txt").write_text(f"first of {number}\nsecond of {number}\n")
