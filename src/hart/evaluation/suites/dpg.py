"""Suite `dpg`: DPG-Bench, questions about images of long prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hart.data.images import open_image
from hart.evaluation.judges.answers import BlipAnswers
from hart.evaluation.judges.dpg_rules import (
    CATEGORIES,
    QUESTIONS,
    DensePrompt,
    judge,
    read_questions,
    unknown_parents,
)
from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean
from hart.evaluation.published_files import at_hand, located
from hart.evaluation.report import Result, images_text, published_tables
from hart.evaluation.suites.asking import OVERALL, Asked
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import DpgOptions
from hart.strict import Config, Listed


class Answer(Config):
    """To one question. yes: as answered. counted: with the rule of dependence. reason: why it does not count."""

    number: int
    category: str
    question: str
    answer: str
    yes: bool
    counted: bool
    reason: str


class Verdict(Config):
    """On one image. score: the share of questions that count."""

    item: str
    prompt: str
    score: Annotated[float, Field(ge=0, le=1)]
    answers: Listed[Answer]


def run(context: Context[DpgOptions]) -> Result:
    """Generate, ask and judge. Raises `HartError`."""
    options = context.options
    file = located(QUESTIONS, options.data)
    prompts = read_questions(file)
    answerer = BlipAnswers(at_hand(options.vqa, options.data), context.device)
    asked = Asked(context, QUESTIONS, prompts, [""] * len(prompts))
    judges = {"answerer": f"{answerer.name} {answerer.weights}"}

    def verdict(number: int) -> Verdict:
        prompt, image = asked.each[number], open_image(asked.generated.path(number)).convert("RGB")
        return _verdict(prompt, answerer(image, [question.text for question in prompt.questions.values()]))

    verdicts = asked.verdicts(Verdict, judges, lambda numbers: [verdict(number) for number in numbers], 1)
    lost = unknown_parents(asked.prompts)
    return Result(
        title=f"DPG-Bench, {len(asked.prompts):,} prompts, {images_text(len(verdicts))}",
        figures=scores(verdicts, options.per_prompt, answerer.name, context.generator(), options.resamples),
        settings={"questions": str(file), **asked.settings, **judges},
        counts={
            "prompts": len(asked.prompts),
            "generated": len(verdicts),
            "questions": sum(len(prompt.questions) for prompt in asked.prompts),
        },
        notes=(
            *asked.notes,
            f"answered by {answerer.name}: published scores are mPLUG-large's, and are not to be compared with these",
            *([f"{lost:,} dependencies name no question of their prompt and were passed over"] if lost else []),
        ),
        published=(published_tables()["text_to_image"],),
        sheets=asked.generated.sheet([f"{100 * v.score:.0f}: {v.prompt[:80]}" for v in verdicts]),
        lines=asked.lines(verdicts),
    )


def scores(
    verdicts: Sequence[Verdict], per_prompt: int, answerer: str, generator: torch.Generator, resamples: int
) -> dict[str, dict[str, Figure]]:
    """0 to 100, with intervals over prompts. verdicts: of the images of each prompt, one prompt after the other.

    Overall: the mean over images of the share of questions that count. Of a category: the share of its questions that
    are answered yes, over all images, without the rule of dependence, as published.
    """
    column = f"score ({answerer})"
    whole = 100 * torch.tensor([v.score for v in verdicts], dtype=torch.float64).view(-1, per_prompt).mean(dim=1)
    rows = {OVERALL: {column: bootstrap_mean(whole, generator, resamples)}}
    present = {answer.category for v in verdicts for answer in v.answers}
    for category in (*(c for c in CATEGORIES if c in present), *sorted(present - set(CATEGORIES))):
        tallies = [[a.yes for a in v.answers if a.category == category] for v in verdicts]
        yes, count = (
            torch.tensor([measure(tally) for tally in tallies], dtype=torch.float64).view(-1, per_prompt).sum(dim=1)
            for measure in (sum, len)
        )
        rows[category] = {column: _share(yes[count > 0], count[count > 0], generator, resamples)}
    return rows


def _share(yes: Tensor, count: Tensor, generator: torch.Generator, resamples: int) -> Figure:
    return bootstrap(lambda i: 100 * float(yes[i].sum() / count[i].sum()), [len(yes)], generator, resamples)


def _verdict(prompt: DensePrompt, answers: Sequence[str]) -> Verdict:
    judged = judge(prompt.questions, answers)
    found = []
    for (number, question), answer, yes, counted in zip(
        prompt.questions.items(), answers, judged.yes, judged.counted, strict=True
    ):
        reason = "" if counted else f"answered {answer!r}"
        if yes and not counted:
            reason = f"depends on {', '.join(map(str, question.parents))}, of which one counts 0"
        found.append(Answer(number, question.category, question.text, answer, yes, counted, reason))
    return Verdict(prompt.item, prompt.prompt, judged.score, tuple(found))
