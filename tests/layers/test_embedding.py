"""The sinusoidal embedding, number by number."""

from __future__ import annotations

import math

import torch

from hart.layers.embedding import sinusoidal_embedding


def test_cosines_then_sines_of_growing_periods() -> None:
    values = [0.0, 1.0, 13.0, 999.0]
    expected = [[wave(v * 10000 ** (-i / 128)) for wave in (math.cos, math.sin) for i in range(128)] for v in values]
    torch.testing.assert_close(sinusoidal_embedding(torch.tensor(values)), torch.tensor(expected), rtol=0, atol=1e-4)
