"""The scorer that comes with the model, for `hart generate --best-of`: a rendering of every name as its reference."""

from __future__ import annotations

from pathlib import Path

import torch

from hart.evaluation import REFERENCE_SIZE, SCORER_FILE, EfficientNetLite, Progress, write_references
from hart_emoji.suites.emoji_set import EmojiSet
from hart_emoji.suites.prompts import LEFT_OUT


def write_scorer(folder: Path, data: Path, progress: Progress) -> int:
    """Into the folder of a model, from the set that `hart-emoji data` built; returns how many names it knows.

    Only training images without skin tones serve. Raises `HartError` for a folder that is no such set.
    """
    emoji = EmojiSet(data, REFERENCE_SIZE)
    features = emoji.features(EfficientNetLite(torch.device("cpu"), image_size=REFERENCE_SIZE), progress)
    rows = [row for row in emoji.training if emoji.tone[row] is None]
    named = [
        (name, row)
        for number, row in emoji.renderings().items()
        if emoji.entry(number).group not in LEFT_OUT
        for name in emoji.entry(number).names
    ]
    names, places = zip(*named, strict=True)
    write_references(folder / SCORER_FILE, names, features[list(places)], features[rows])
    return len(names)
