"""Composes scenes from emoji and encodes them for `recipes/emoji/transformer.toml` (`hart.data.emoji.scenes`).

    python recipes/emoji/bank.py data/scenes --count 65536
    hart train transformer recipes/emoji/transformer.toml data=data/scenes views=1 ...

A stopped run goes on; a larger count makes the set longer. `--part 1/2` and `--part 2/2` share the work.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import torch
import typer

from hart.checkpoint.starting import load_tokenizer
from hart.data.emoji.scenes import EmojiScenes
from hart.data.transforms import ImageTransform
from hart.files import default_cache
from hart.precompute import EncodeOptions, Encoders, encode_dataset
from hart.text_encoder import load_text_encoder
from hart.training.conditions import find_text_encoder

SHARD = 1024
TEST_PROMPTS = Path(__file__).with_name("free_prompts.toml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True, help=f"images, a multiple of {SHARD}")
    parser.add_argument("--model", default="emoji", help="whose tokenizer and text encoder encode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", metavar="I/N", help="write every N-th shard")
    given = parser.parse_args()
    if given.count % SHARD:
        parser.error(f"--count must be a multiple of {SHARD}")
    part, parts = (int(number) for number in given.part.split("/"))
    tokenizer = load_tokenizer(given.model).requires_grad_(False).to(memory_format=torch.channels_last)
    config, folder = find_text_encoder(given.model, tokens=0, instruction=False)
    encoders = Encoders(tokenizer, load_text_encoder(config, folder), torch.device("cpu"))
    size = tokenizer.config.image_size
    tables = tomllib.loads(TEST_PROMPTS.read_text(encoding="utf-8"))
    barred = {prompt.lower() for prompts in tables.values() for prompt in prompts}
    scenes = EmojiScenes(default_cache(), given.count, size=size, seed=given.seed, barred=barred)
    options = EncodeOptions(shard_size=SHARD, batch_size=64, part=part - 1, parts=parts)
    summary = encode_dataset(
        scenes,
        ImageTransform(size),
        encoders,
        given.folder,
        "train",
        options,
        progress=lambda done, total, what: typer.echo(f"{done}/{total} {what}"),
    )
    typer.echo(f"{given.folder}: {summary.pictures} images, {summary.captions} captions, {summary.damaged} left out")


if __name__ == "__main__":
    main()
