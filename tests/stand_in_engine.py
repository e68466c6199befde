"""An engine without a model: images are a function of the row and the scale, and everything that is asked is noted."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from PIL import Image

from hart.config import SamplingConfig
from hart.generation.metadata import ImageSettings, MixSettings
from hart.grids import grid_of_aspect
from hart.serving.engine import ModelFacts, Row, Source
from hart.serving.schemas import Generation, RequestBody
from hart.sizes import ImageSize
from waiting import PATIENCE

SCALES = 4
SIZES = ImageSize(16, 16), ImageSize(32, 16), ImageSize(16, 32)
FACTS = ModelFacts(SIZES, SCALES, SamplingConfig(), token_size=8, max_pixels=1024, styles=("blue style",))
TOKENS = 30
ASKED = ("kept_scales", "style_strength", "source_prompt", "followed_scales")
"""Fields of requests that come with an image; beside its images in a row's `edit`."""


def drawn(row: Row, k: int) -> Image.Image:
    """What the stand-in makes of a row after scale k."""
    said = repr((row.prompt, row.settings, row.seed, k))
    if (source := row.edit) is not None:
        said += repr((source.image.tobytes(), source.mask and source.mask.tobytes(), source.kept_scales))
        said += repr((source.source_prompt, source.followed_scales))
    return Image.new("RGB", row.size, tuple(zlib.crc32(said.encode()).to_bytes(4)[:3]))


@dataclass
class StandInEngine:
    """capacity: rows for which there is memory. The prompt "broken" fails, "fatal" ends the thread. While `open_gate`
    is not set, no scale is sampled."""

    capacity: int = 100
    facts: ModelFacts = FACTS
    batches: list[list[Row]] = field(default_factory=list)
    """The rows of every batch that was started."""
    sampled: list[list[int]] = field(default_factory=list)
    """The seeds of the rows of every scale that was sampled."""
    open_gate: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    """Calls of `row`."""
    clock: list[float] = field(default_factory=lambda: [0.0])
    """Advances by a second a scale."""

    def __post_init__(self) -> None:
        self.open_gate.set()

    def size(self, request: RequestBody, source: Source | None) -> tuple[ImageSize, list[str]]:
        if request.aspect is not None:
            grid_of_aspect(request.aspect, 16)  # refuses what models do
        return self.facts.sizes[0], []

    def row(self, request: RequestBody, size: ImageSize, source: Source | None = None) -> Row:
        self.asked += 1
        given = {name: value for name, value in request.sampling().items() if value is not None}
        sampling = SamplingConfig.from_dict(self.facts.sampling.to_dict() | given, called=str)
        mixed = None
        if isinstance(request, Generation) and request.second_prompt:
            mixed = MixSettings(request.second_prompt, tuple(request.weights or (float(request.switch or 0),)))
        settings = ImageSettings(
            sampling=sampling,
            size=ImageSize(*size).stored,
            device="cpu",
            dtype="float32",
            negative_prompt=request.negative_prompt or None,
            edit=None if source is None else source.files,
            mix=mixed,
        )
        edit = None
        if source is not None:
            edit = SimpleNamespace(**vars(source), **{name: getattr(request, name, None) for name in ASKED})
        return Row(request.prompt or "", request.seed or 0, size, settings, SCALES, TOKENS, edit)

    def remarks(self, prompt: str) -> list[str]:
        return [f'"{prompt}": unknown words'] if "xyzzy" in prompt else []

    def group(self, row: Row) -> Hashable:
        return row.size

    def start(self, rows: Sequence[Row]) -> StandInBatch:
        self.batches.append(list(rows))
        if len(rows) > self.capacity:
            raise MemoryError
        return StandInBatch(self, dict(enumerate(rows)))


@dataclass
class StandInBatch:
    engine: StandInEngine
    rows: dict[int, Row]
    k: int = -1

    def advance(self) -> None:
        assert self.engine.open_gate.wait(PATIENCE)
        prompts = [row.prompt for row in self.rows.values()]
        self.engine.sampled.append([row.seed for row in self.rows.values()])
        if "fatal" in prompts:
            raise SystemExit
        if "broken" in prompts:
            raise RuntimeError(f"secret of {prompts}")
        self.k += 1
        self.engine.clock[0] += 1

    def drop(self, places: Collection[int]) -> None:
        for place in places:
            del self.rows[place]

    def images(self, places: Sequence[int]) -> list[Image.Image]:
        return [drawn(self.rows[place], self.k) for place in places]
