"""The scorer that comes with the model, for `hart generate --best-of`: each name has a rendering as its reference."""

from __future__ import annotations

from pathlib import Path

import torch

from hart.evaluation import REFERENCE_SIZE, SCORER_FILE, EfficientNetLite, Progress, write_references
from hart_emoji.suites.emoji_set import EmojiSet
from hart_emoji.suites.prompts import LEFT_OUT


def write_scorer(folder: Path, data: Path, progress: Progress) -> int:
    """Write the scorer into a model's folder and return how many names it knows. data: as `hart-emoji data` built it.

    Uses only training images without skin tones. Raises `HartError` if the data folder is no such set.
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
