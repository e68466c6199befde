"""Third-party networks, through transformers, frozen in float32: for features and for judging images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hart.checkpoint.hub import from_transformers
from hart.checkpoint.storage import fingerprint
from hart.errors import HartError

# Mean and standard deviation of each colour that networks were trained with, for images in [0, 1].
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINING_ONLY = ("criterion.",)
"""Buffers of a loss, which not every published file has and nothing here uses."""


class Frozen:
    """A third-party network, and what identifies it. name: for column heads. weights: their SHA-256 in hex."""

    def __init__(self, network: Any, name: str, device: torch.device, tokenizer: Any = None) -> None:
        """tokenizer: for the texts that it reads, if any."""
        self.network = network.to(device)
        self.device = device
        self.name = name
        self.weights = fingerprint(self.network)
        self.tokenizer = tokenizer


def choices(judge: object) -> str:
    """Return a digest of what else determines a network's answers, for cache keys: its configuration, with the names of
    classes, and its text tokenizer's words. The same for networks that have neither.
    """
    config = getattr(getattr(judge, "network", None), "config", None)
    tokenizer = getattr(judge, "tokenizer", None)
    found = [
        {} if config is None else config.to_dict() | {"_name_or_path": ""},  # its location does not matter
        [] if tokenizer is None else sorted(tokenizer.get_vocab().items()),
    ]
    return hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()


def load_frozen(kind: Any, source: str, role: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model class of transformers from a folder or hub id, for inference.

    role: what it is for, in errors. Raises `HartError`, also for weights of another network.
    """
    load = partial(kind.from_pretrained, dtype=dtype, output_loading_info=True)
    model, report = from_transformers(load, kind.__name__, source, role)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(TRAINING_ONLY))
    if missing:
        raise HartError(f"{role} {source!r}: is not a {kind.__name__}: it lacks {', '.join(missing[:3])}")
    return model.eval().requires_grad_(False)


def load_text_tokenizer(source: str, role: str) -> Any:
    """Return the text tokenizer in a model's folder or repository. Raises `HartError`."""
    from transformers import AutoTokenizer

    return from_transformers(AutoTokenizer.from_pretrained, "tokenizer", source, role)


def normalised(pixels: Tensor, colours: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """Normalise images (B, 3, H, W), float, 0 to 1, as in a network's training. colours: `CLIP` or `IMAGENET`."""
    mean, deviation = pixels.new_tensor(colours).view(2, 3, 1, 1)
    return (pixels - mean) / deviation


def short_name(source: str) -> str:
    """Return the last part of a folder or hub id, for column heads."""
    return source.rstrip("/").rsplit("/", maxsplit=1)[-1]
