"""What `geneval` and `dpg` share: prompts drawn several times each, and a kept verdict on every picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import Field

from hart.evaluation.cache import Cache, records
from hart.evaluation.drawing import DrawnPictures, spread
from hart.evaluation.published_files import PublishedFile
from hart.evaluation.suites.base import Context, SamplingOptions
from hart.strict import Config

VERDICTS_FILE = "verdicts.jsonl"
PER_PROMPT = 4
OVERALL = "overall"

V = TypeVar("V", bound=Config)
"""What a judge says of one picture."""


class AskingOptions(SamplingOptions, kw_only=True):
    """Pictures of one prompt follow each other; each has a seed of its own."""

    limit: int | None = Field(default=None, ge=1, description="Prompts to draw, chosen by the seed; all by default.")
    per_prompt: int = Field(default=PER_PROMPT, ge=1, description="Pictures of each prompt; 4 as published.")


class Asked:
    """Prompts of a benchmark, drawn and judged."""

    def __init__(
        self, context: Context[Any], published: PublishedFile, prompts: Sequence[Any], groups: Sequence[str]
    ) -> None:
        """prompts: dataclasses with a `prompt`. groups: of each, for `spread`. Raises `HartError` for a class model."""
        options: AskingOptions = context.options
        self.prompts = [prompts[row] for row in spread(groups, options.limit, options.seed)]
        self.each = [prompt for prompt in self.prompts for _ in range(options.per_prompt)]
        pipe = options.pipeline()
        texts = [prompt.prompt for prompt in self.each]
        self.drawn = DrawnPictures(pipe, texts, options.sampling(pipe), options.seed, context.out)
        self.drawn.draw(options.batch_size, context.progress)
        self.settings = {"size": pipe.image_size, **self.drawn.settings}
        self._context = context
        self.notes = self.drawn.notes
        if (len(self.prompts), options.per_prompt) != (published.prompts, PER_PROMPT):
            part = (
                f"{len(self.prompts):,} prompts with {options.per_prompt} pictures each, where {published.benchmark} "
                f"has {published.prompts:,} with {PER_PROMPT}: do not compare with published scores"
            )
            self.notes = (part, *self.notes)

    def verdicts(
        self, kind: type[V], judge_facts: Mapping[str, Any], judge: Callable[[list[int]], Sequence[V]], batch_size: int
    ) -> list[V]:
        """A verdict on every picture; it is kept for as long as picture, prompt and judges are the same.

        judge_facts: all that decides a verdict beside picture and prompt. judge: of pictures by number.
        """
        kept: Cache[V] = self._context.cache(records(kind), judge_facts)
        keys = [
            kept.key(dataclasses.asdict(prompt), self.drawn.path(number).read_bytes())
            for number, prompt in enumerate(self.each)
        ]
        kept.fill(keys, judge, batch_size, self._context.progress, "{} of {} pictures judged")
        return [kept.read(key) for key in keys]

    def lines(self, verdicts: Sequence[Config]) -> dict[str, list[dict[str, Any]]]:
        """For `Result.lines`: every verdict with the name of its picture."""
        named = enumerate(verdicts)
        return {VERDICTS_FILE: [{"picture": self.drawn.path(i).name, **verdict.to_dict()} for i, verdict in named]}
