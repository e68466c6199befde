"""Plots in one style, side by side. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INCHES = (4.6, 3.6)


@contextmanager
def panels(count: int, file: Path) -> Iterator[Sequence[Axes]]:
    """Yield `count` panels to draw on, then write the plot to `file`."""
    canvas = Figure(figsize=(INCHES[0] * count, INCHES[1]), layout="constrained")
    axes = list(canvas.subplots(1, count, squeeze=False)[0])
    yield axes
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=110)
