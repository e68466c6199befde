"""Codebook usage: per scale, and the same however the counts were gathered."""

from __future__ import annotations

import pytest
import torch

from hart.tokenizer.quantizer import code_counts, codebook_usage


def test_share_and_perplexity_of_each_scale() -> None:
    indices = [torch.tensor([[3], [3]]), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), torch.tensor([[0, 0, 0, 1]])]
    used_share, perplexity = codebook_usage(code_counts(indices, 8))
    assert used_share.tolist() == [1 / 8, 4 / 8, 2 / 8]
    entropy = -(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log())
    assert perplexity.tolist() == pytest.approx([1.0, 4.0, entropy.exp().item()])


def test_nothing_counted_is_no_code_used() -> None:
    used_share, perplexity = codebook_usage(torch.zeros(2, 4, dtype=torch.int64))
    assert used_share.tolist() == [0, 0]
    assert perplexity.tolist() == [1, 1]
