"""Third-party networks, through transformers, frozen in float32: for features and for judging images."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.hub import downloaded, folder_or_id, remedy
from hart.checkpoint.storage import fingerprint
from hart.devices import is_out_of_memory
from hart.errors import HartError
from hart.files import user_path
from hart.hub import unreachable
from hart.strict import reason

T = TypeVar("T")

# Mean and standard deviation of each colour that networks were trained with, for images in [0, 1].
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINING_ONLY = ("criterion.",)
"""Buffers of a loss, which not every published file has and nothing here uses."""
NO_CODE: Mapping[str, Any] = {"trust_remote_code": False}
"""Code in a repository is neither run nor asked about."""


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


def load_frozen(kind: Any, source: str, role: str, dtype: torch.dtype = torch.float32, instead: str = "") -> Any:
    """Load a model class of transformers from a folder or hub id, for inference.

    role, instead: as in `from_transformers`. Raises `HartError`, also for weights of another network, or incomplete
    ones, in place of which transformers makes random weights.
    """
    load = partial(kind.from_pretrained, dtype=dtype, output_loading_info=True, **NO_CODE)
    model, report = from_transformers(load, kind.__name__, source, role, instead)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(TRAINING_ONLY))
    if missing:
        raise HartError(
            f"{role} {source!r}: is not a {kind.__name__}, or only a part of one: it lacks "
            f"{', '.join(missing[:3])}: give the folder with all of its files"
        )
    return model.eval().requires_grad_(False)


def load_text_tokenizer(source: str, role: str, instead: str = "") -> Any:
    """Return the text tokenizer in a model's folder or repository. Raises `HartError`, also if its vocabulary is
    missing, without which transformers makes one that reads every text as nothing."""
    from transformers import AutoTokenizer

    load = partial(AutoTokenizer.from_pretrained, **NO_CODE)
    tokenizer = from_transformers(load, "tokenizer", source, role, instead)
    if not tokenizer.decode(tokenizer("a")["input_ids"], skip_special_tokens=True):
        raise HartError(f"{role} {source!r}: has no vocabulary: copy the files of its tokenizer there too")
    return tokenizer


def from_transformers(load: Callable[[str], T], what: str, source: str, role: str, instead: str = "") -> T:
    """Return what `load` makes, by transformers, of a folder or hub id; also of an earlier download of a hub model if
    the hub cannot be reached.

    what: what it should be. role: what it is for, in errors. instead: as in `hart.checkpoint.hub.remedy`. Raises
    `HartError`.
    """
    place = folder_or_id(source, role)
    from_hub = not user_path(source).is_dir()
    if from_hub and (why := unreachable()) is not None:
        if (copy := downloaded(place)) is None:
            failed = f"{role} {source!r}: is not a folder, and the Hugging Face hub cannot be reached ({why})"
            raise CheckpointError(f"{failed}: {remedy(source, instead)}")
        place = str(copy)
    try:
        with _without_reports():
            return load(place)
    except Exception as error:  # transformers raises many kinds
        if is_out_of_memory(error):
            raise
        of_folder = "give a hub id or a folder with its configuration, weights and tokenizer"
        advice = remedy(source, instead) if from_hub else of_folder
        said = f"{role} {source!r}: transformers cannot load it as {what} ({reason(error)}): {advice}"
        raise HartError(said) from None


@contextmanager
def _without_reports() -> Iterator[None]:
    """Keep transformers from printing a table of weights that a model leaves out or lacks, and bars where there is no
    terminal to show them."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if had_bars and not (sys.stderr is not None and sys.stderr.isatty()):
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def normalised(pixels: Tensor, colours: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """Normalise images (B, 3, H, W), float, 0 to 1, as in a network's training. colours: `CLIP` or `IMAGENET`."""
    mean, deviation = pixels.new_tensor(colours).view(2, 3, 1, 1)
    return (pixels - mean) / deviation


def short_name(source: str) -> str:
    """Return the last part of a folder or hub id, for column heads."""
    return source.rstrip("/").rsplit("/", maxsplit=1)[-1]
