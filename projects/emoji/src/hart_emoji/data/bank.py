"""Composed scenes, encoded for training the transformer, without captions that the evaluation asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from hart_emoji.data.scenes import KINDS, EmojiScenes
from hart_emoji.text.corpus import require_wordnet

SHARD = 1024


def write_bank(
    folder: Path,
    count: int,
    *,
    model: str,
    seed: int,
    part: str,
    progress: Progress,
    plain: bool = False,
    wordnet: Path | None = None,
    scales: tuple[int, ...] = (),
    kinds: Mapping[str, float] = KINDS,
) -> EncodedSummary:
    """Write `count` scenes, or every N-th shard of them.

    model: whose tokenizer and text encoder are used. part: "I/N". plain: single emoji instead, see `PlainEmoji`.
    wordnet: folder of its files, from which these take further words. scales: in place of the model's own; the last
    one decides the size of the images. kinds: of scenes, with their shares.

    Raises `HartError`, also for a count that is no multiple of `SHARD`.
    """
    if count <= 0 or count % SHARD:
        raise HartError(f"count {count}: give a multiple of {SHARD}")
    if wordnet is not None:
        require_wordnet(wordnet)
    options = EncodeOptions(shard_size=SHARD, batch_size=64, part=part)
    tokenizer = load_tokenizer(model)
    tokenizer = (over_scales(tokenizer, scales) if scales else tokenizer).requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on a CPU
    config, source = find_text_encoder(model, tokens=0, instruction=False)
    text_encoder = load_text_encoder(config, source)
    encoders = Encoders(tokenizer, text_encoder, torch.device("cpu"))
    size = tokenizer.config.image_size
    tables = read_toml(RECIPES / "free_prompts.toml")
    barred = {prompt.lower() for prompts in tables.values() for prompt in prompts}
    images = (
        PlainEmoji(default_cache(), count, size=size, seed=seed, barred=barred)
        if plain
        else EmojiScenes(default_cache(), count, size=size, seed=seed, barred=barred, kinds=kinds)
    )
    if isinstance(images, PlainEmoji) and wordnet is not None:
        images.find_nouns(text_encoder, wordnet)
    return encode_dataset(images, ImageTransform(size), encoders, folder, "train", options, progress=progress)


def read_kinds(text: str) -> dict[str, float]:
    """Kinds of scenes with their shares, of any sum, from "two=0.75,count=0.25"; others are not made.

    Raises `HartError` for kinds that are not in `KINDS`, or twice there, and for shares that are no positive numbers.
    """
    kinds: dict[str, float] = {}
    for part in text.split(","):
        kind, _, share = part.partition("=")
        if (
            kind not in KINDS
            or kind in kinds
            or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", share)
            or not float(share)
        ):
            raise HartError(
                f"kinds of scenes {text!r}: give some of {', '.join(KINDS)}, each once with its share, such as "
                "two=0.75,count=0.25"
            )
        kinds[kind] = float(share)
    return kinds
