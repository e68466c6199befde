"""The one place where training's random numbers start: a generator for every (seed, purpose, step).

Nothing random is carried from step to step, so a run resumed at step n draws what an unbroken one would.
Generators live on the CPU: the numbers do not depend on the device.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(seed: int, purpose: str, step: int = 0) -> int:
    """63 bits that look unrelated for any two different arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A fresh generator; `purpose` names what is drawn, so that two uses never share numbers."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, step))
