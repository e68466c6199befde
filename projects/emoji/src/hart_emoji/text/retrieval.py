"""How well a text encoder knows synonyms: the concept name nearest to other words for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from hart.errors import HartError
from hart.files import read_toml


@dataclass(frozen=True)
class Retrieval:
    """One prompt: its nearest names, nearest first, and the rank (from 1) of the first accepted one."""

    prompt: str
    nearest: tuple[str, ...]
    rank: int


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """prompt -> accepted concept names, lower-cased, from a TOML file; raises `HartError` when it is none."""
    table = read_toml(path)
    for prompt, names in table.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise HartError(f'{path}: {prompt}: give "prompt" = ["name", ...]')
    return {prompt: tuple(name.lower() for name in names) for prompt, names in table.items()}


def retrieve(
    embed: Callable[[Sequence[str]], Tensor], synonyms: Mapping[str, Sequence[str]], names: Sequence[str]
) -> list[Retrieval]:
    """Ranks `names` by cosine to each prompt.

    embed: texts -> (B, E). Raises `HartError` for an accepted name that is not in `names`.
    """
    position = {name: index for index, name in enumerate(names)}
    if unknown := sorted({name for accepted in synonyms.values() for name in accepted if name not in position}):
        raise HartError(f"not among the concept names: {', '.join(unknown)}")
    prompts = list(synonyms)
    cosines = F.normalize(embed(prompts), dim=-1) @ F.normalize(embed(names), dim=-1).T
    results = []
    for prompt, order in zip(prompts, cosines.argsort(descending=True).tolist(), strict=True):
        accepted = {position[name] for name in synonyms[prompt]}
        rank = next(rank for rank, index in enumerate(order, 1) if index in accepted)
        results.append(Retrieval(prompt, tuple(names[index] for index in order[:5]), rank))
    return results


def accuracy(results: Sequence[Retrieval], top: int) -> float:
    """Share of prompts with an accepted name among the `top` nearest."""
    return sum(result.rank <= top for result in results) / len(results)
