"""Suite `dpg`: DPG-Bench, questions about pictures of long prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
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
from hart.evaluation.report import Result, pictures_text
from hart.evaluation.suites.asking import OVERALL, VERDICTS_FILE, Asked, AskingOptions, Verdict
from hart.evaluation.suites.base import STRICT, Context, Suite


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DpgOptions(AskingOptions):
    """The answering model is another than the published one, which transformers does not have."""

    data: Annotated[
        Path | None,
        Field(description="dpg_bench.csv, or its folder with weights beside it; fetched once by default."),
    ] = None
    vqa: Annotated[str, Field(description="BLIP that answers questions: folder or hub id.")] = (
        "Salesforce/blip-vqa-capfilt-large"
    )


def run(context: Context[DpgOptions]) -> Result:
    """Draw, ask and judge. Raises `HartError`."""
    options = context.options
    file = located(QUESTIONS, options.data)
    prompts = read_questions(file)
    answerer = BlipAnswers(at_hand(options.vqa, options.data), context.device)
    asked = Asked(context, QUESTIONS, prompts, [""] * len(prompts))
    judges = {"answerer": f"{answerer.name} {answerer.weights}"}

    def verdict(number: int) -> Verdict:
        prompt, image = asked.each[number], open_image(asked.drawn.path(number)).convert("RGB")
        return _verdict(prompt, answerer(image, [question.text for question in prompt.questions.values()]))

    verdicts = asked.verdicts(judges, lambda numbers: [verdict(number) for number in numbers], 1, _is_whole)
    lost = unknown_parents(asked.prompts)
    return Result(
        title=f"DPG-Bench, {len(asked.prompts):,} prompts, {pictures_text(len(verdicts))}",
        figures=scores(verdicts, options.per_prompt, answerer.name, context.generator(), options.resamples),
        settings={"questions": str(file), **asked.settings, **judges},
        counts={
            "prompts": len(asked.prompts),
            "drawn": len(verdicts),
            "questions": sum(len(prompt.questions) for prompt in asked.prompts),
        },
        notes=(
            *asked.notes,
            f"answered by {answerer.name}: published scores are mPLUG-large's, and are not to be compared with these",
            *([f"{lost:,} dependencies name no question of their prompt and were passed over"] if lost else []),
        ),
        published=("text_to_image",),
        sheets=asked.drawn.sheet([f"{100 * v['score']:.0f}: {v['prompt'][:80]}" for v in verdicts]),
        lines={VERDICTS_FILE: verdicts},
    )


def scores(
    verdicts: Sequence[Verdict], per_prompt: int, answerer: str, generator: torch.Generator, resamples: int
) -> dict[str, dict[str, Figure]]:
    """0 to 100, with intervals over prompts. verdicts: of the pictures of each prompt, one prompt after the other.

    Overall: the mean over pictures of the share of questions that count. Of a category: the share of its questions that
    are answered yes, over all pictures, without the rule of dependence, as published.
    """
    column = f"score ({answerer})"
    whole = 100 * torch.tensor([v["score"] for v in verdicts], dtype=torch.float64).view(-1, per_prompt).mean(dim=1)
    rows = {OVERALL: {column: bootstrap_mean(whole, generator, resamples)}}
    present = {answer["category"] for v in verdicts for answer in v["answers"]}
    for category in (*(c for c in CATEGORIES if c in present), *sorted(present - set(CATEGORIES))):
        tallies = [[a["yes"] for a in v["answers"] if a["category"] == category] for v in verdicts]
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
    return {
        "item": prompt.item,
        "prompt": prompt.prompt,
        "score": judged.score,
        "answers": [
            {
                "number": number,
                "category": question.category,
                "question": question.text,
                "answer": answer,
                "yes": yes,
                "counted": counted,
                "reason": _reason(prompt, number, answer, yes, counted),
            }
            for (number, question), answer, yes, counted in zip(
                prompt.questions.items(), answers, judged.yes, judged.counted, strict=True
            )
        ],
    }


def _is_whole(verdict: Verdict) -> bool:
    """Whether a kept verdict has what the scores are of."""
    score, answers = verdict.get("score"), verdict.get("answers")
    return (
        type(score) in (int, float)
        and 0 <= float(str(score)) <= 1
        and isinstance(verdict.get("prompt"), str)
        and isinstance(answers, list)
        and all(
            isinstance(answer, dict) and isinstance(answer.get("category"), str) and type(answer.get("yes")) is bool
            for answer in answers
        )
    )


def _reason(prompt: DensePrompt, number: int, answer: str, yes: bool, counted: bool) -> str:
    """Why a question counts 0."""
    if counted:
        return ""
    if not yes:
        return f"answered {answer!r}"
    return f"depends on {', '.join(map(str, prompt.questions[number].parents))}, of which one counts 0"


SUITE = Suite("dpg", "DPG-Bench: questions about pictures of long prompts. A stopped run goes on.", DpgOptions, run)
