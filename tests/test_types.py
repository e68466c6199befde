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


def test_text_batches_are_joined_and_taken_apart() -> None:
    given = context()
    joined = TextContext.cat([given, given.null()])
    assert len(joined) == 4
    assert torch.equal(joined.select(slice(0, 2)).embeddings, given.embeddings)
    assert torch.equal(joined.select(torch.tensor([1])).mask, given.mask[1:])


def test_the_null_class_is_one_past_the_last() -> None:
    given = ClassContext(torch.tensor([0, 4]), 5)
    assert given.null().labels.tolist() == [5, 5]
    joined = ClassContext.cat([given, given.null()])
    assert joined.labels.tolist() == [0, 4, 5, 5]
    assert joined.select(slice(1, 3)).labels.tolist() == [4, 5]
    assert len(joined) == 4


def test_moving_changes_the_dtype_of_features_only() -> None:
    moved = context().to("cpu", torch.bfloat16)
    assert moved.embeddings.dtype == torch.bfloat16
    assert moved.mask.dtype == torch.bool
