"""Composed scenes, encoded for training of the transformer; those that tests ask for are left out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import torch

from hart.checkpoint.starting import load_tokenizer
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.files import default_cache
from hart.text_encoder import load_text_encoder
from hart.training.conditions import find_text_encoder
from hart.training.encoding import EncodedSummary, EncodeOptions, Encoders, encode_dataset
from hart_emoji import RECIPES
from hart_emoji.data.build import Progress
from hart_emoji.data.scenes import EmojiScenes

SHARD = 1024


def write_bank(folder: Path, count: int, *, model: str, seed: int, part: str, progress: Progress) -> EncodedSummary:
    """Write `count` scenes, or every N-th shard of them.

    model: whose tokenizer and text encoder encode. part: "I/N".
    Raises `HartError` for a count that is no multiple of `SHARD` and for another form of part.
    """
    if count <= 0 or count % SHARD:
        raise HartError(f"count {count}: give a multiple of {SHARD}")
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", part)
    if match is None:
        raise HartError(f"part {part!r}: give it as I/N, such as 1/4")
    tokenizer = load_tokenizer(model).requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on a CPU
    config, source = find_text_encoder(model, tokens=0, instruction=False)
    encoders = Encoders(tokenizer, load_text_encoder(config, source), torch.device("cpu"))
    size = tokenizer.config.image_size
    tables = tomllib.loads((RECIPES / "free_prompts.toml").read_text(encoding="utf-8"))
    barred = {prompt.lower() for prompts in tables.values() for prompt in prompts}
    images = EmojiScenes(default_cache(), count, size=size, seed=seed, barred=barred)
    options = EncodeOptions(shard_size=SHARD, batch_size=64, part=int(match[1]) - 1, parts=int(match[2]))
    return encode_dataset(images, ImageTransform(size), encoders, folder, "train", options, progress=progress)
