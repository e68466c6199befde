"""The one place where training's random numbers start: a generator for every (seed, purpose, step).

Nothing random is carried from step to step, so a run resumed at step n draws what an unbroken one would.
Generators live on the CPU, so that the numbers do not depend on the device; only the noise of the residual diffusion,
millions of numbers a step, is drawn on a GPU for a model that is there.
"""

from __future__ import annotations

import hashlib

import torch

CPU = torch.device("cpu")


def seed_of(seed: int, purpose: str, step: int = 0) -> int:
    """63 bits that look unrelated for any two different arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, purpose: str, step: int = 0, device: torch.device = CPU) -> torch.Generator:
    """A fresh generator; `purpose` names what is drawn, so that two uses never share numbers.

    device: on CUDA the generator is there, and its numbers are others than the CPU's; elsewhere it is on the CPU.
    """
    place = device if device.type == "cuda" else CPU
    return torch.Generator(place).manual_seed(seed_of(seed, purpose, step))
