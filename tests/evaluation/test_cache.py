"""Kept results: computed once for the same parts and facts, checked when they are read, never mixed with others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from hart.errors import HartError
from hart.evaluation.cache import IMAGES, TENSORS, Cache, records
from hart.strict import Config
from helpers import same_weights

PIXELS = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)


def test_an_entry_is_computed_once_for_the_same_facts_and_parts(tmp_path: Path) -> None:
    computed: list[int] = []

    def value(facts: Mapping[str, Any], *parts: object) -> Mapping[str, Tensor]:
        def compute() -> dict[str, Tensor]:
            computed.append(len(computed))
            return {"PSNR, dB": torch.tensor([20.0 + len(computed)]), "pooled": torch.ones(2, 1).T}

        kept: Cache[Mapping[str, Tensor]] = Cache(tmp_path, TENSORS, facts)
        return kept.get(kept.key(*parts), compute)

    first, again = value({"scales": [1, 2]}, PIXELS), value({"scales": [1, 2]}, PIXELS.clone())
    assert computed == [0]
    assert same_weights(first, again)
    for facts, parts in (
        ({"scales": [1, 3]}, (PIXELS,)),
        ({"scales": [1, 2]}, (PIXELS + 1,)),
        ({"scales": [1, 2]}, (PIXELS.view(1, 3, 1, 4),)),
        ({"scales": [1, 2]}, (PIXELS, "asked")),
    ):
        value(facts, *parts)
    assert computed == [0, 1, 2, 3, 4]
    for file in tmp_path.iterdir():
        file.write_bytes(b"cut off")
    with pytest.raises(HartError, match=rf"{tmp_path}.*delete it, and it is computed again"):
        value({"scales": [1, 2]}, PIXELS)


class Place(Config):
    place: int


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"correct": 1}'])
def test_what_is_no_entry_is_named(content: bytes, tmp_path: Path) -> None:
    kept = Cache(tmp_path, records(Place), {})
    name = kept.key("a cat", b"image")
    kept.path(name).parent.mkdir(exist_ok=True)
    kept.path(name).write_bytes(content)
    with pytest.raises(HartError, match=rf"{name}.json: .*: delete it, and it is computed again"):
        kept.read(name)


def test_a_stopped_run_computes_what_is_missing_in_batches(tmp_path: Path) -> None:
    kept = Cache(tmp_path, records(Place), {})
    names = [kept.key(number) for number in range(8)]
    batches: list[list[int]] = []

    def compute(places: list[int]) -> list[Place]:
        batches.append(places)
        return [Place(place) for place in places]

    assert kept.fill(names, compute, 3) == 0
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7]]
    for place in (1, 2, 5):
        kept.path(names[place]).unlink()
    batches.clear()
    assert kept.fill(names, compute, 3) == 5
    assert batches == [[1, 2, 5]]
    assert [kept.read(name).place for name in names] == list(range(8))


def test_a_folder_is_of_one_plan(tmp_path: Path) -> None:
    def opened(plan: Mapping[str, Any]) -> Cache[Image.Image]:
        return Cache(tmp_path / "images", IMAGES, plan=plan)

    opened({"seed": 0, "prompts": ("a cat",)}).fill(["000000"], lambda _: [Image.new("RGB", (8, 8))])
    opened({"seed": 0, "prompts": ["a cat"]})
    with pytest.raises(HartError, match=r"differ in seed, prompts: choose another --out"):
        opened({"seed": 1, "prompts": ["a dog"]})
    plan = tmp_path / "images" / "plan.json"
    plan.write_text("{")
    with pytest.raises(HartError, match=r"plan\.json: is not JSON .*: choose another --out, or delete the folder"):
        opened({"seed": 0})
    plan.unlink()
    with pytest.raises(HartError, match=r"holds files but no plan\.json"):
        opened({"seed": 0})
