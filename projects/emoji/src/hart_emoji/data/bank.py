"""Composed scenes, encoded for training the transformer. No caption is a prompt of the evaluation."""

from __future__ import annotations

from pathlib import Path

import torch

from hart import HartError
from hart.checkpoint import load_tokenizer, over_scales
from hart.data import ImageTransform
from hart.evaluation import Progress
from hart.files import default_cache, read_toml
from hart.text_encoder import find_text_encoder, load_text_encoder
from hart.training import EncodedSummary, EncodeOptions, Encoders, encode_dataset
from hart_emoji import RECIPES
from hart_emoji.data.plain import PlainEmoji
from hart_emoji.data.scenes import EmojiScenes
from hart_emoji.scene_options import SceneOptions
from hart_emoji.text.corpus import require_wordnet

SHARD = 1024


def write_bank(folder: Path, chosen: SceneOptions, progress: Progress) -> EncodedSummary:
    """Write scenes, or every N-th shard of them. Raises `HartError`, also if `SHARD` does not divide the count."""
    if chosen.count <= 0 or chosen.count % SHARD:
        raise HartError(f"count {chosen.count}: give a multiple of {SHARD}")
    if chosen.wordnet is not None:
        require_wordnet(chosen.wordnet)
    options = EncodeOptions(shard_size=SHARD, batch_size=64, part=chosen.part)
    tokenizer = load_tokenizer(chosen.model)
    tokenizer = (over_scales(tokenizer, chosen.scales) if chosen.scales else tokenizer).requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on a CPU
    config, source = find_text_encoder(chosen.model, tokens=0, instruction=False)
    text_encoder = load_text_encoder(config, source)
    encoders = Encoders(tokenizer, text_encoder, torch.device("cpu"))
    size = tokenizer.config.image_size
    tables = read_toml(RECIPES / "free_prompts.toml")
    barred = {prompt.lower() for prompts in tables.values() for prompt in prompts}
    cache, count, seed = default_cache(), chosen.count, chosen.seed
    images: EmojiScenes
    if chosen.plain:
        images = plain = PlainEmoji(cache, count, size=size, seed=seed, barred=barred)
        if chosen.wordnet is not None:
            plain.find_nouns(text_encoder, chosen.wordnet)
    else:
        images = EmojiScenes(cache, count, size=size, seed=seed, barred=barred, kinds=chosen.shares)
    return encode_dataset(images, ImageTransform(size), encoders, folder, "train", options, progress=progress)
