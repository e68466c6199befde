"""The options of `hart-emoji scenes`, in a module of their own so that the command line does not import PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hart.training import Config, require

KINDS = {"single": 0.1, "coloured": 0.2, "background": 0.1, "two": 0.25, "count": 0.15, "inked": 0.2}
"""Kind of scene -> its share of the images."""


class SceneOptions(Config, kw_only=True):
    """Composed scenes, or single emoji, encoded by a model's tokenizer and text encoder."""

    count: int
    """Number of images, a multiple of 1024; a larger count extends an existing set."""
    model: str = "emoji"
    """Model whose tokenizer and text encoder are used."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the scenes."""
    part: Annotated[str, Field(json_schema_extra={"metavar": "I/N"})] = "1/1"
    """Write only every N-th shard, as process I of N."""
    plain: bool = False
    """Make single emoji instead, with many wordings of their names."""
    wordnet: Path | None = None
    """Folder of WordNet's files; with --plain, its nouns serve as further words."""
    scales: Annotated[tuple[int, ...], Field(json_schema_extra={"metavar": "1,2,..."})] = ()
    """Grid sizes of the scales, by default the model's own; the last one decides the size of the images."""
    kinds: Annotated[
        str,
        Field(
            description=f"Only these of {', '.join(KINDS)}, such as two=0.75,count=0.25.",
            json_schema_extra={"metavar": "KIND=SHARE,..."},
        ),
    ] = ""

    def __post_init__(self) -> None:
        require(self.plain or self.wordnet is None, "--wordnet gives words to single emoji: add --plain too")
        require(not (self.kinds and self.plain), "--kinds chooses among scenes, and --plain makes none: leave out one")
        self.shares  # noqa: B018 - raises

    @property
    def shares(self) -> Mapping[str, float]:
        """Kinds of scenes with their shares, which may have any sum. Raises `HartError` if `kinds` is invalid."""
        if not self.kinds:
            return KINDS
        parts = [part.partition("=")[::2] for part in self.kinds.split(",")]
        shares = {kind: float(share) for kind, share in parts if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", share)}
        require(
            len(shares) == len(parts) and KINDS.keys() >= shares.keys() and min(shares.values()) > 0,
            f"kinds {self.kinds!r}: give some of {', '.join(KINDS)}, each once with its share, such as "
            "two=0.75,count=0.25",
        )
        return shares
