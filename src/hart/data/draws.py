"""One generator for every random draw of the data, from what the draw is for and where it belongs."""

from __future__ import annotations

import zlib

import numpy as np


def draw_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """The generator of (seed, purpose, place): the same in every process, whatever was drawn before.

    purpose: a word such as "picture", so that two draws at one place are independent.
    place: numbers from 0 up, for instance step and position in the global batch.
    """
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(purpose.encode()), *place]))
