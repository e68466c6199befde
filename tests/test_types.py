"""What the stages hand to each other: positions, the null context, batches."""

from __future__ import annotations

import torch

from hart.types import ClassContext, TextContext


def context() -> TextContext:
    mask = torch.tensor([[True, True, True, False], [False, False, True, True]])
    return TextContext(torch.arange(16.0).view(2, 4, 2), mask)


def test_positions_count_real_tokens_on_either_side_of_the_padding() -> None:
    assert context().position_ids.tolist() == [[0, 1, 2, 2], [-1, -1, 0, 1]]


def test_the_null_text_is_zero_with_its_first_token_real() -> None:
    given = context()
    null = given.null()
    assert not null.embeddings.any()
    assert null.mask.tolist() == [[True, False, False, False]] * 2
    assert not null.position_ids.any()
    assert given.embeddings.any(), "the given context must stay as it is"


def test_text_batches_are_joined() -> None:
    given = context()
    joined = TextContext.cat([given, given.null()])
    assert len(joined) == 4
    assert torch.equal(joined.embeddings[:2], given.embeddings)
    assert torch.equal(joined.mask[:2], given.mask)


def test_the_null_class_is_one_past_the_last() -> None:
    given = ClassContext(torch.tensor([0, 4]), 5)
    assert given.null().labels.tolist() == [5, 5]
    joined = ClassContext.cat([given, given.null()])
    assert joined.labels.tolist() == [0, 4, 5, 5]
    assert len(joined) == 4
