"""Stage `transformer`: what a step is given."""

from __future__ import annotations

import pytest
import torch

from hart.training.hart_task import drop_condition, encode_all, select
from hart.types import TextContext
from helpers import SCALES, TEXT_TOKENS, pictures, random_tensor, tiny_model, tiny_text_config


def contexts(count: int) -> TextContext:
    return TextContext(random_tensor(count, TEXT_TOKENS, 2), torch.ones(count, TEXT_TOKENS, dtype=torch.bool))


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_captions_are_dropped_as_often_as_asked(probability: float) -> None:
    """Published code compared a normal number with the rate: 54% dropped where 10% was meant."""
    given = contexts(4000)
    result = drop_condition(given, probability, torch.Generator().manual_seed(0))
    dropped = ~result.embeddings.flatten(1).any(dim=1)
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.02)
    assert (result.mask[dropped].sum(dim=1) == 1).all()
    assert torch.equal(result.embeddings[~dropped], given.embeddings[~dropped])
    assert torch.equal(given.embeddings, contexts(4000).embeddings), "the caller's context must stay as it is"


def test_tokens_made_once_are_those_made_in_a_step() -> None:
    tokenizer, _ = tiny_model(tiny_text_config())
    data = pictures(5)
    maps = encode_all(tokenizer, data, torch.device("cpu"))
    assert [index.shape for index in maps.indices] == [(5, n * n) for n in SCALES]
    rows = torch.tensor([4, 0, 4])
    chosen = select(maps, rows, torch.device("cpu"))
    assert torch.equal(chosen.indices[2], maps.indices[2][rows])
    assert torch.equal(chosen.last_scale_continuous, maps.last_scale_continuous[rows])
    # tokens made without gradients must still serve in a training step
    weight = torch.ones(1, requires_grad=True)
    (chosen.teacher_forcing_input * weight).sum().backward()
    assert weight.grad is not None
