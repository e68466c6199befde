"""Random numbers as a function: Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", 2011), in integer operations of torch.

A key and a counter of two words each give two words that look random. There is no state, so any number can be computed
at once, in any order and for any batch. The words are the same on every device, in `torch.compile` and in CUDA graphs;
floating-point numbers made from them agree up to rounding.

A word is 32 bits in an int32 tensor; sums wrap around.
"""

from __future__ import annotations

import math

from torch import Tensor

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
GROUPS = 5
"""Groups of four rounds each."""

Words = tuple[Tensor, Tensor]


def threefry(key: Words, counter: tuple[Tensor | int, Tensor | int]) -> Words:
    """Return the two words of every key and counter; all four are broadcast against each other."""
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(1, GROUPS + 1):
        for distance in ROTATIONS[(group - 1) % 2]:
            x = x + y
            y = _rotated(y, distance) ^ x
        x = x + keys[group % 3]
        y = y + (keys[(group + 1) % 3] + group)
    return x, y


def key_of(seeds: Tensor) -> Words:
    """Return int64 seeds of any shape as keys: their lower and upper word."""
    return (seeds << 32 >> 32).int(), (seeds >> 32).int()


def uniform(words: Tensor) -> Tensor:
    """Return float32 in (0, 1), ends excluded: the midpoints of 2^23 equal parts, from a word's upper bits."""
    return (words >> 9 & 0x7FFFFF).float().add_(0.5).mul_(2**-23)


def gumbel(words: Tensor) -> Tensor:
    """Return standard Gumbel numbers, from -2.8 to 16.6."""
    return uniform(words).log_().neg_().log_().neg_()


def normal(words: Words) -> Words:
    """Return two independent standard normal numbers per two words (Box and Muller, 1958), within +-5.8."""
    radius = (uniform(words[0]).log_() * -2).sqrt_()
    angle = uniform(words[1]) * (2 * math.pi)
    return radius * angle.cos(), radius * angle.sin()


def _rotated(word: Tensor, distance: int) -> Tensor:
    """Rotate the bits of a word to the left; `>>` repeats the sign, which is masked away."""
    low = (word >> (32 - distance)).bitwise_and_((1 << distance) - 1)
    return (word << distance).bitwise_or_(low)
