"""What `geneval` and `dpg` share: several images per prompt, and a stored verdict on every image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hart.evaluation.cache import Cache, records
from hart.evaluation.generated_images import GeneratedImages, evenly_chosen
from hart.evaluation.published_files import PublishedFile
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import PER_PROMPT, JudgedPromptsOptions
from hart.strict import Config, counted

VERDICTS_FILE = "verdicts.jsonl"
OVERALL = "overall"

V = TypeVar("V", bound=Config)
"""A judge's verdict on one image."""


class JudgedPrompts:
    """Prompts of a benchmark with their images, generated and judged."""

    def __init__(
        self, context: Context[Any], published: PublishedFile, prompts: Sequence[Any], groups: Sequence[str]
    ) -> None:
        """prompts: dataclasses with a `prompt`. groups: one for each. Raises `HartError` for a class model."""
        options: JudgedPromptsOptions = context.options
        self.prompts = [prompts[row] for row in evenly_chosen(groups, options.limit, options.seed)]
        self.each = [prompt for prompt in self.prompts for _ in range(options.per_prompt)]
        pipe = options.pipeline()
        texts = [prompt.prompt for prompt in self.each]
        self.generated = GeneratedImages(pipe, texts, options.sampling(pipe), options.seed, context.out)
        self.generated.generate(options.batch_size, context.progress)
        self._context = context
        self.notes = self.generated.notes
        if (len(self.prompts), options.per_prompt) != (published.prompts, PER_PROMPT):
            part = (
                f"{counted(len(self.prompts), 'prompt')} with {counted(options.per_prompt, 'image')} each, where "
                f"{published.benchmark} has {published.prompts:,} with {PER_PROMPT}: do not compare with published "
                "scores"
            )
            self.notes = (part, *self.notes)

    def verdicts(
        self, kind: type[V], judge_facts: Mapping[str, Any], judge: Callable[[list[int]], Sequence[V]], batch_size: int
    ) -> list[V]:
        """Return a verdict on every image, reused as long as image, prompt and judges are the same.

        judge_facts: what determines a verdict besides image and prompt. judge: returns verdicts on images, by number.
        """
        kept: Cache[V] = self._context.cache(records(kind), judge_facts)
        keys = [
            kept.key(dataclasses.asdict(prompt), self.generated.path(number).read_bytes())
            for number, prompt in enumerate(self.each)
        ]
        kept.fill(keys, judge, batch_size, self._context.progress, "{} of {} images judged")
        return [kept.read(key) for key in keys]

    def lines(self, verdicts: Sequence[Config]) -> dict[str, list[dict[str, Any]]]:
        """Return every verdict with the name of its image, for `Result.lines`."""
        named = enumerate(verdicts)
        return {VERDICTS_FILE: [{"image": self.generated.path(i).name, **verdict.to_dict()} for i, verdict in named]}
