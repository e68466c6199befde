"""The figures of a step, read when the device has computed them: no step waits for the one before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hart.errors import HartError


class StepFigures:
    """What step `step` reports, in part still on its way to the host."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._known: dict[str, float] = {}
        self._coming: list[tuple[Sequence[str], Tensor, Any]] = []

    def know(self, figures: Mapping[str, float]) -> None:
        """Add numbers of the host."""
        self._known |= figures

    def expect(self, names: Sequence[str], values: Tensor) -> None:
        """Add numbers (N,) of the device, without waiting for them."""
        device = values.device
        # only NVIDIA's devices say when a copy has arrived; from an Apple GPU it must be complete
        values = values.to("cpu", non_blocking=device.type != "mps")
        arrival = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        self._coming.append((names, values, arrival))

    @property
    def arrived(self) -> bool:
        """Whether `read` would return at once. Always true on a CPU."""
        return all(arrival is None or arrival.query() for _, _, arrival in self._coming)

    def read(self) -> dict[str, float]:
        """All figures, waiting for those on their way. Raises `HartError` when a loss or gradient is not finite."""
        for names, values, arrival in self._coming:
            if arrival is not None:
                arrival.synchronize()
            self._known |= zip(names, values.tolist(), strict=True)
        self._coming = []
        for name, value in self._known.items():
            if name.endswith(("loss", "gradient_norm")) and not math.isfinite(value):
                raise HartError(
                    f"the {name.replace('_', ' ')} is {value}: go on with a lower learning rate or gradient_clip"
                )
        return dict(self._known)
