"""The source of random numbers in data and training: a generator for every (seed, purpose, step).

No random state is carried from step to step, so a run resumed at step n sees the numbers that an unbroken one would,
with any number of processes. There are three derivations; changing one changes every run:

`generator_for`    torch, from a SHA-256 of all three: weights, noise, dropout and all else that is random in a step
`numpy_generator`  NumPy, from the numbers and a CRC of the purpose: cheap, for workers that need one per image
`epoch_generator`  torch, from seed and epoch alone: the order of a set

Purposes are part of the derivation: they keep their names ("picture", "view") even where the code uses new words.
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch

CPU = torch.device("cpu")


def seed_of(seed: int, purpose: str, step: int = 0) -> int:
    """Return 63 bits that look unrelated for any two different arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, purpose: str, step: int = 0, device: torch.device = CPU) -> torch.Generator:
    """Return a fresh torch generator.

    purpose: what the numbers are for, so that two uses never share any.
    device: on CUDA the generator lives there, and its numbers differ from the CPU's: for the diffusion's noise,
        millions of numbers per step. On any other device it lives on the CPU, and the device changes nothing.
    """
    place = device if device.type == "cuda" else CPU
    return torch.Generator(place).manual_seed(seed_of(seed, purpose, step))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a fresh torch generator on the CPU; seeds of any size are cut to the bits that torch takes."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def numpy_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Return a fresh NumPy generator.

    purpose: as for `generator_for`. place: numbers from 0 up, such as the step and the position in the global batch.
    """
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(purpose.encode()), *place]))
