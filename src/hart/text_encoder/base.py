"""The interface of every text encoder, so that pipelines and training tasks take any of them; and random features.

Shapes: B prompts, S text tokens (`config.tokens`, always), E text width.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from hart.config import TextConditioning, TextEncoderConfig
from hart.errors import HartError
from hart.strict import clipped, shown
from hart.types import TextContext

SHOWN_WORDS = 8
SHOWN_OTHERS = 3


@dataclass(frozen=True)
class Reading:
    """How an encoder reads a prompt.

    left_out: the text that was truncated; empty if it reads all. unknown: words that it does not know.
    others: words that it reads as known ones, and these; "" for a word that was in no caption and has no near one.
    parts: words that captions only had together with others, and these, if the prompt has none of them.
    """

    left_out: str = ""
    unknown: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def remarks(self, prompt: str, *, adapted: bool = False) -> list[str]:
        """Return what the author of the prompt should know, one sentence each. adapted: the model has an adapter, whose
        captions may have had words that are read as they are."""
        named = f'"{clipped(prompt, 40)}"'
        found = []
        if self.left_out:
            found.append(f'{named} is longer than the text encoder reads: "{clipped(self.left_out, 100)}" is left out')
        if self.unknown:
            words = ", ".join(f'"{clipped(word, 40)}"' for word in self.unknown[:SHOWN_WORDS])
            more = f" and {len(self.unknown) - SHOWN_WORDS} more" if len(self.unknown) > SHOWN_WORDS else ""
            found.append(f"{named}: the text encoder does not know {words}{more}, and reads all such words the same")
        others = {f'"{clipped(word, 40)}"': other for word, other in self.others.items() if other or not adapted}
        shown = list(others.items())[:SHOWN_WORDS]
        found += [f'the model did not learn {word}: it is read as "{other}"' for word, other in shown if other]
        if plain := [word for word, other in shown if not other]:
            like, they = ("one like it", "it") if len(plain) == 1 else ("any like them", "they")
            found.append(f"the model did not learn {', '.join(plain)}, nor {like}: {they} may change nothing")
        for word, beside in [] if adapted else list(self.parts.items())[:SHOWN_WORDS]:
            some = ", ".join(f'"{clipped(other, 40)}"' for other in beside[:SHOWN_OTHERS])
            remark = f'the model learned "{clipped(word, 40)}" only beside others ({some})'
            found.append(f"{remark}: it may not draw it alone")
        return found


class TextEncoder(Protocol):
    """A frozen prompt encoder. `width` is E, the width of the features that `encode` returns."""

    @property
    def config(self) -> TextEncoderConfig: ...

    @property
    def width(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> TextContext:
        """Return embeddings (B, S, E) and mask (B, S) for B prompts; longer prompts are truncated. No gradient."""
        ...

    def reading(self, prompts: Sequence[str]) -> list[Reading]:
        """Return how `encode` reads each prompt, without encoding it."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> TextEncoder:
        """Move the encoder (in place) and return it; `encode` then answers on that device in that type."""
        ...


def listed(prompts: Sequence[str]) -> list[str]:
    """Return prompts as an encoder takes them. Raises `HartError` for a single text, a sequence of letters."""
    if isinstance(prompts, str):
        raise HartError(f"prompts {shown(prompts)}: give a list of them to a text encoder")
    return list(prompts)


class RandomTextFeatures:
    """Standard normal features, a function of prompt and seed. All S tokens are real."""

    def __init__(self, sizes: TextConditioning, seed: int) -> None:
        self.config = TextEncoderConfig(kind="random", tokens=sizes.tokens, output_width=sizes.width, seed=seed)

    @property
    def width(self) -> int:
        """Return E, the width of the features."""
        return self.config.output_width

    def reading(self, prompts: Sequence[str]) -> list[Reading]:
        """Return that prompts are read whole: each has its own features."""
        return [Reading() for _ in listed(prompts)]

    def encode(self, prompts: Sequence[str]) -> TextContext:
        """Return embeddings (B, S, E) in float32 on the CPU and mask (B, S) for B prompts."""
        shape = (self.config.tokens, self.width)
        # modulo a prime just below the range of generator seeds: no two seeds of a pipeline agree for all prompts
        seeds = [(self.config.seed * 2**32 + zlib.crc32(prompt.encode())) % (2**64 - 59) for prompt in listed(prompts)]
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        embeddings = [torch.randn(shape, generator=one, dtype=torch.float32, device="cpu") for one in generators]
        return TextContext(torch.stack(embeddings), torch.ones(len(prompts), shape[0], dtype=torch.bool, device="cpu"))

    def to(self, device: torch.device, dtype: torch.dtype) -> RandomTextFeatures:
        """Return `self`: there is nothing to move; the caller moves the features."""
        return self
