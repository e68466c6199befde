"""What a suite is: one declaration, from which its command line, kept results, report and documentation are made.

    class CountOptions(SuiteOptions, kw_only=True):
        data: Data

    def count(context: Context[CountOptions]) -> Result: ...

    SUITE = Suite("count", "How many images a set has.", CountOptions, count)

Nothing here loads PyTorch before a suite runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field
from pydantic_core import to_jsonable_python

from hart.config import MAX_SEED, SamplingConfig
from hart.data.kinds import Kind
from hart.errors import DISTRIBUTION
from hart.files import user_path
from hart.strict import Config

if TYPE_CHECKING:
    import torch

    from hart.data.sources import Source, Stream
    from hart.evaluation.cache import Cache, Form
    from hart.evaluation.report import Result
    from hart.pipeline import HartPipeline

MEASURED_FOLDER = "measured"

Progress = Callable[[int, int | None, str], None]
"""Called with (steps done, steps in all or None if unknown, what is being done)."""


def silent(_done: int, _total: int | None, _what: str) -> None:
    """No progress shown."""


# Options of several suites whose defaults differ.
Model = Annotated[str, Field(description="Shipped name, folder or hub id.")]
Column = Annotated[str, Field(description="Its field, where that has an unusual name.")]
Features = Annotated[
    str,
    Field(
        description="Feature extractor: efficientnet-lite0, inception-v3[:FILE], inception-v3-clean[:FILE], "
        "clip:SOURCE or dinov2:SOURCE."
    ),
]
Guidance = Annotated[float | None, Field(description="Guidance scale; 0 turns it off. The model's own by default.")]
DiscreteOnly = Annotated[bool, Field(description="Leave the residual tokens out, as in the paper's ablation.")]
BatchSize = Annotated[int, Field(ge=1, description="Images computed together.")]


class SuiteOptions(Config, kw_only=True):
    """What every suite takes; each adds its own."""

    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Seed of everything that is random.")
    resamples: int = Field(default=100, ge=0, description="Resamples of each interval; 0 leaves intervals out.")
    device: str | None = Field(
        default=None, description="cpu, cuda, cuda:1 or mps; by default CUDA where there is one."
    )

    def settings(self) -> dict[str, Any]:
        """For a report: JSON values. A model's path is one that is still right in another working directory."""
        values: dict[str, Any] = to_jsonable_python(self)
        model = values.get("model")
        if model is not None and user_path(model).exists():
            values["model"] = os.path.abspath(user_path(model))  # noqa: PTH100 - links stay as given
        return values


class SamplingOptions(SuiteOptions, kw_only=True):
    """Of suites that measure images which a model generates."""

    model: Model = "emoji"
    guidance: Guidance = None
    gumbel_smoothing: bool | None = Field(
        default=None, description="Mix codes instead of taking the sampled one. The model's own by default."
    )
    discrete_only: DiscreteOnly = False
    batch_size: BatchSize = 1

    def pipeline(self) -> HartPipeline:
        """The model on its device. Raises `HartError`."""
        from hart.pipeline import HartPipeline

        return HartPipeline.from_pretrained(self.model, device=self.device)

    def sampling(self, pipe: HartPipeline) -> SamplingConfig:
        """The model's own settings but for what was given."""
        given = {
            "guidance_scale": self.guidance,
            "gumbel_smoothing": self.gumbel_smoothing,
            "discrete_only": self.discrete_only or None,
        }
        return pipe.config.sampling.replace(**{name: value for name, value in given.items() if value is not None})


class ImageSetOptions(Config, kw_only=True):
    """Of suites that read a set of images in any format."""

    data: str = Field(
        description="Folder, file, pattern or URLs of shards, or hf:OWNER/NAME.", json_schema_extra={"metavar": "DATA"}
    )
    split: str = Field(
        default="val",
        description="Part of the set: train, val, another that it has, or all of a set that is not divided.",
    )
    kind: Kind | None = Field(default=None, description="Format of the set; told from DATA by default.")
    fit: Literal["crop", "pad"] = Field(
        default="crop", description="crop: the largest centred square. pad: all of it, on white."
    )
    image_column: Column = ""

    def source(self, caption_column: str = "") -> Source | Stream:
        """The set, listed. Raises `HartError`."""
        from hart.data.notes import Columns
        from hart.data.opening import open_source

        columns = Columns(image=self.image_column, caption=caption_column)
        return open_source(self.data, self.split, kind=self.kind, columns=columns)


O = TypeVar("O", bound=SuiteOptions)  # noqa: E741
O_co = TypeVar("O_co", bound=SuiteOptions, covariant=True)


@dataclass(frozen=True)
class Context(Generic[O_co]):
    """What a suite runs with.

    out: the folder of its results. progress: told what is being done. note: one line to the user while it runs.
    """

    options: O_co
    out: Path
    progress: Progress = silent
    note: Callable[[str], None] = lambda _: None

    @property
    def device(self) -> torch.device:
        """Where it computes. Raises `HartError` for one that is not there."""
        from hart.devices import resolve_device

        return resolve_device(self.options.device)

    def generator(self) -> torch.Generator:
        """A new one, seeded with the options' seed."""
        import torch

        return torch.Generator().manual_seed(self.options.seed)

    def cache(self, form: Form[Any], facts: Mapping[str, Any]) -> Cache[Any]:
        """Kept results of this suite; see `hart.evaluation.cache.Cache`."""
        from hart.evaluation.cache import Cache

        return Cache(self.out / MEASURED_FOLDER, form, facts)


@dataclass(frozen=True)
class Suite(Generic[O]):
    """name: of its command. description: one line. options: a configuration, a field an option. run: measures.
    install: what `pip install` brings the packages that it needs."""

    name: str
    description: str
    options: type[O]
    run: Callable[[Context[O]], Result]
    install: str = f"{DISTRIBUTION}[evaluate]"

    def __call__(self, context: Context[O]) -> Result:
        """Measure; the result has the suite's name and the options among its settings."""
        result = self.run(context)
        return replace(result, suite=self.name, settings=context.options.settings() | dict(result.settings))
