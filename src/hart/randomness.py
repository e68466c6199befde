"""Where random numbers start in data and training: a generator for every (seed, purpose, step).

Nothing random is carried from step to step, so a run resumed at step n sees the numbers that an unbroken one would, in
any number of processes. There are two derivations, and a run can only be resumed with the one that it began with:

`generator_for`    torch, from a SHA-256 of the three: weights, noise, dropout and what else is random in a step
`numpy_generator`  NumPy, from the numbers themselves and a CRC of the purpose: what workers ask for once an image

A purpose stands in the state of every run so far: a new name for an old one is another stream of numbers.
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_of(seed: int, purpose: str, step: int = 0) -> int:
    """63 bits that look unrelated for any two different arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, purpose: str, step: int = 0, device: torch.device = CPU) -> torch.Generator:
    """A fresh torch generator.

    purpose: what the numbers are for, so that two uses never share any.
    device: on CUDA the generator lives there, and its numbers differ from the CPU's: for the diffusion's noise,
        millions of numbers a step. On any other device it lives on the CPU, and the device changes nothing.
    """
    place = device if device.type == "cuda" else CPU
    return torch.Generator(place).manual_seed(seed_of(seed, purpose, step))


def numpy_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A fresh NumPy generator.

    purpose: as for `generator_for`. place: numbers from 0 up, such as the step and the position in the global batch.
    """
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(purpose.encode()), *place]))
