"""Which images of a set are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from hart.errors import HartError
from hart.strict import counted

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
"""Other names by which a split is found."""
HELD_OUT_SHARE = 0.05
"""Share of an undivided set that is held out."""
SMALL_SET = 1000
"""Sets with fewer images hold out exactly that share."""
WHOLE = "all"
"""The split of all images of an undivided set: for evaluation, where nothing need be held out."""


def held_out(names: Iterable[str]) -> frozenset[str]:
    """Return which images of an undivided set are "val": the share `HELD_OUT_SHARE`, chosen by the hash of the name.

    Of fewer than `SMALL_SET` names, those with the smallest hashes, so that the share is exact (none of fewer than 10).
    Of more, every name whose own hash is below the share, so that adding images moves no other.
    """
    chances = {name: chance_of(name) for name in names}
    if len(chances) >= SMALL_SET:
        return frozenset(name for name, chance in chances.items() if chance < HELD_OUT_SHARE)
    count = int(HELD_OUT_SHARE * len(chances) + 0.5)
    return frozenset(sorted(chances, key=lambda name: (chances[name], name))[:count])


def chance_of(name: str) -> float:
    """Return a number in [0, 1) determined by a name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32


def divide(names: Collection[str], split: str, where: str) -> tuple[list[bool], str]:
    """Return which names of an undivided set belong to "train", "val" or `WHOLE`, and a remark for the description.

    where: the set, for errors. Raises `HartError` for an empty "val".
    """
    out = frozenset() if split == WHOLE else held_out(names)
    if split == "val" and names and not out:
        raise HartError(
            f"{where}: none of its {counted(len(names), 'image')} is held out, as {HELD_OUT_SHARE:.0%} by name would "
            f"be from 10 on: ask for the split '{WHOLE}' to take them all"
        )
    if not out:
        return [True] * len(names), ", none held out"
    note = f", {len(out)} more held out ({HELD_OUT_SHARE:.0%} by name; split '{WHOLE}' takes them all)"
    if split == "val":
        note = f", the {HELD_OUT_SHARE:.0%} by name that training does not see"
    return [(name in out) == (split == "val") for name in names], note


def require_hash_split(split: str, where: str, wanted: str) -> None:
    """Raise `HartError` for a split other than train, val and `WHOLE`: only these can be told by name."""
    if split not in SPLIT_NAMES and split != WHOLE:
        raise HartError(f"{where} has no {wanted}: ask for train, val or {WHOLE}, or make it")


def split_names(split: str) -> tuple[str, ...]:
    """Return all names by which a split is found."""
    return SPLIT_NAMES.get(split, (split,))
