"""Everything random in generation, behind one interface with one generator per image.

An image's numbers depend on its own generator alone, never on its neighbours in the batch: image i of a batch is the
image generated alone with its seed. Numbers are sampled on the generators' device and then moved, so that CPU
generators give the same image on every device.

Shapes: B images, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hart.generation.logits import sample


class NoiseSource(Protocol):
    """What generation asks for; `hart verify` answers with recorded or constant numbers."""

    def codes(self, logits: Tensor) -> Tensor:
        """(B, N, V) filtered logits to (B, N) codes."""
        ...

    def gumbel(self, logits: Tensor) -> Tensor:
        """Standard Gumbel noise of the shape (B, N, V) of `logits`."""
        ...

    def start_noise(self, tokens: int, channels: int) -> Tensor:
        """(B, N, D) standard normal: where the diffusion starts."""
        ...

    def step_noise(self, tokens: int, channels: int) -> Tensor:
        """(B, N, D) standard normal: what a diffusion step adds."""
        ...

    def order(self, tokens: int) -> Tensor:
        """(B, N), a permutation of the last scale's positions for its MaskGIT steps."""
        ...


class GeneratorNoise:
    """Samples from one `torch.Generator` per image."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        if not generators:
            raise ValueError("at least one generator is needed: one for each image")
        self.generators = list(generators)
        self.device = device

    def _stack(self, sample: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([sample(generator) for generator in self.generators]).to(self.device, non_blocking=True)

    def _uniform(self, *shape: int) -> Tensor:
        return self._stack(lambda g: torch.rand(shape, generator=g, device=g.device))

    def _normal(self, *shape: int) -> Tensor:
        return self._stack(lambda g: torch.randn(shape, generator=g, device=g.device))

    def codes(self, logits: Tensor) -> Tensor:
        return sample(logits, self._uniform(logits.shape[1]))

    def gumbel(self, logits: Tensor) -> Tensor:
        tiny = torch.finfo(torch.float32).tiny
        return -(-self._uniform(*logits.shape[1:]).clamp(min=tiny).log()).clamp(min=tiny).log()

    def start_noise(self, tokens: int, channels: int) -> Tensor:
        return self._normal(tokens, channels)

    def step_noise(self, tokens: int, channels: int) -> Tensor:
        return self._normal(tokens, channels)

    def order(self, tokens: int) -> Tensor:
        return self._stack(lambda g: torch.randperm(tokens, generator=g, device=g.device))
