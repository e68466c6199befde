"""Suite `dpg`: DPG-Bench, questions about pictures of long prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.images import open_image
from hart.evaluation.alignment.asking import AskingOptions, draw_prompts, part_warning
from hart.evaluation.alignment.dpg_rules import CATEGORIES, QUESTIONS, DensePrompt, judge, unknown_parents
from hart.evaluation.alignment.verdicts import VERDICTS_FILE, Verdict, kept_verdicts
from hart.evaluation.published_text import TEXT_TO_IMAGE
from hart.evaluation.report import Progress, Result, pictures_text
from hart.evaluation.selection import spread
from hart.evaluation.statistics import Figure, bootstrap, bootstrap_mean
from hart.pipeline import HartPipeline

OVERALL = "overall"


class Answerer(Protocol):
    """Short answers to questions about a picture."""

    name: str
    weights: str

    def __call__(self, image: Image.Image, questions: Sequence[str]) -> list[str]: ...


def evaluate_dpg(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    prompts: Sequence[DensePrompt],
    answerer: Answerer,
    folder: Path,
    options: AskingOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw, ask and judge. Pictures lie in `folder`/images, verdicts in `folder`/verdicts.jsonl; both are gone on with
    after a stop. settings: what the caller chose, for the report.
    """
    chosen = [prompts[row] for row in spread([""] * len(prompts), options.limit, options.seed)]
    drawn = draw_prompts(pipe, sampling, [prompt.prompt for prompt in chosen], folder, options)
    drawn.draw(options.draw_batch, progress)
    asked = [prompt for prompt in chosen for _ in range(options.per_prompt)]
    judges = {"answerer": f"{answerer.name} {answerer.weights}"}

    def verdict(number: int) -> Verdict:
        prompt, image = asked[number], open_image(drawn.path(number)).convert("RGB")
        texts = [question.text for question in prompt.questions.values()]
        return _verdict(prompt, answerer(image, texts))

    verdicts = kept_verdicts(
        folder / VERDICTS_FILE,
        drawn,
        [dataclasses.asdict(prompt) for prompt in asked],
        judges,
        lambda numbers: [verdict(number) for number in numbers],
        1,
        progress,
        _is_whole,
    )
    notes = [
        *part_warning(QUESTIONS, len(chosen), options),
        *drawn.notes,
        f"answered by {answerer.name}: published scores are mPLUG-large's, and are not to be compared with these",
    ]
    lost = unknown_parents(chosen)
    if lost:
        notes.append(f"{lost:,} dependencies name no question of their prompt and were passed over")
    return Result(
        suite="dpg",
        title=f"DPG-Bench, {len(chosen):,} prompts, {pictures_text(len(drawn))}",
        figures=scores(verdicts, options.per_prompt, answerer.name, options.seed, options.resamples),
        settings={**settings, **drawn.settings, **judges, "resamples": options.resamples},
        counts={
            "prompts": len(chosen),
            "drawn": len(drawn),
            "questions": sum(len(prompt.questions) for prompt in chosen),
        },
        notes=tuple(notes),
        published=(TEXT_TO_IMAGE,),
        sheets=drawn.sheet([f"{100 * v['score']:.0f}: {v['prompt'][:80]}" for v in verdicts]),
    )


def scores(
    verdicts: Sequence[Verdict], per_prompt: int, answerer: str, seed: int, resamples: int
) -> dict[str, dict[str, Figure]]:
    """0 to 100, with intervals over prompts. verdicts: of the pictures of each prompt, one prompt after the other.

    Overall: the mean over pictures of the share of questions that count. Of a category: the share of its questions that
    are answered yes, over all pictures, without the rule of dependence, as published.
    """
    generator = torch.Generator().manual_seed(seed)
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
