"""Suite `dpg`: DPG-Bench, questions about images of long prompts (Hu et al., 2024, ELLA, arXiv 2403.05135).

Each long prompt has yes-or-no questions; a question may depend on others ("is the hat red?" on "is there a hat?").
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hart.errors import HartError
from hart.evaluation.judges.answers import BlipAnswers
from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean
from hart.evaluation.published_files import PublishedFile, at_hand, located
from hart.evaluation.report import Result, published_tables
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import DpgOptions
from hart.evaluation.suites.judged_prompts import OVERALL, JudgedPrompts
from hart.files import read_text
from hart.networks.pretrained import choices
from hart.strict import Config, Listed, counted

QUESTIONS = PublishedFile(
    "DPG-Bench", "https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/dpg_bench.csv", 1065
)
CATEGORIES = ("global", "entity", "attribute", "relation", "other")
"""Categories in the published order."""
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
YES = "yes"
NO_PARENT = 0


@dataclass(frozen=True)
class Question:
    """category: one of `CATEGORIES` in the published file. parents: numbers of the questions that it depends on."""

    text: str
    category: str
    parents: tuple[int, ...]


@dataclass(frozen=True)
class DensePrompt:
    """item: its name. questions: by number, in file order."""

    item: str
    prompt: str
    questions: dict[int, Question] = field(default_factory=dict)


def read_questions(file: Path) -> list[DensePrompt]:
    """Read the published format: one question per row. Raises `HartError` that names the line."""
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), restval="", strict=True)
    prompts: dict[str, DensePrompt] = {}
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"there is no column {', '.join(missing)}")
        for row in reader:
            _take(row, prompts)
    except (csv.Error, ValueError) as error:
        raise HartError(
            f"{file}, line {reader.line_num}: is not a question of DPG-Bench ({error}): see {QUESTIONS.address}"
        ) from None
    if not prompts:
        raise HartError(f"{file}: holds no questions: fetch {QUESTIONS.address}")
    return list(prompts.values())


def _take(row: Mapping[str, str], prompts: dict[str, DensePrompt]) -> None:
    item, text = row["item_id"].strip(), row["text"].strip()
    question = row["question_natural_language"].strip()
    if not (item and text and question):
        raise ValueError("item_id, text and question_natural_language must not be empty")
    parents = tuple(int(number) for number in row["dependency"].split(","))
    # "attribute - color (hat, red)": what precedes the bracket, and of that what precedes the dash
    category = row["tuple"].split("(")[0].split("-")[0].strip().lower()
    if not category:
        raise ValueError("the tuple has no category")
    prompt = prompts.setdefault(item, DensePrompt(item, text))
    prompt.questions[int(row["proposition_id"])] = Question(
        question, category, tuple(parent for parent in parents if parent != NO_PARENT)
    )


class Answer(Config):
    """An answer to a question. yes: as answered. counted: by the rule of dependence. reason: why it does not count."""

    number: int
    category: str
    question: str
    answer: str
    yes: bool
    counted: bool
    reason: str


class Verdict(Config):
    """The verdict on one image. score: the share of questions that count."""

    item: str
    prompt: str
    score: Annotated[float, Field(ge=0, le=1)]
    answers: Listed[Answer]


def judge(prompt: DensePrompt, answers: Sequence[str]) -> Verdict:
    """Judge answers, given in the order of the prompt's questions.

    Yes counts 1 and every other answer 0. A question counts 0 if one of its parents does, in file order as published,
    so that a no also reaches questions that depend on it through others. Parents that are not among the questions are
    ignored.
    """
    counts = {number: answer.strip().lower() == YES for number, answer in zip(prompt.questions, answers, strict=True)}
    found = []
    for (number, question), answer in zip(prompt.questions.items(), answers, strict=True):
        yes = counts[number]
        reason = "" if yes else f"answered {answer!r}"
        if not all(counts.get(parent, True) for parent in question.parents):
            counts[number] = False
            reason = reason or f"depends on {', '.join(map(str, question.parents))}, of which one counts 0"
        found.append(Answer(number, question.category, question.text, answer, yes, counts[number], reason))
    return Verdict(prompt.item, prompt.prompt, sum(counts.values()) / len(counts), tuple(found))


def run(context: Context[DpgOptions]) -> Result:
    """Generate, ask and judge. Raises `HartError`."""
    options = context.options
    file = located(QUESTIONS, options.data)
    prompts = read_questions(file)
    answerer = BlipAnswers(at_hand(options.vqa, options.data), context.device)
    asked = JudgedPrompts(context, QUESTIONS, prompts, [""] * len(prompts))
    judges = {"answerer": f"{answerer.name} {answerer.weights} {choices(answerer)}"}

    def verdict(number: int) -> Verdict:
        prompt, image = asked.each[number], asked.generated.image(number)
        return judge(prompt, answerer(image, [question.text for question in prompt.questions.values()]))

    verdicts = asked.verdicts(Verdict, judges, lambda numbers: [verdict(number) for number in numbers], 1)
    return Result(
        title=f"DPG-Bench, {counted(len(asked.prompts), 'prompt')}, {counted(len(verdicts), 'image')}",
        figures=scores(verdicts, options.per_prompt, answerer.name, context.generator(), options.resamples),
        settings={"questions": str(file), **asked.generated.settings, **judges},
        counts={
            "prompts": len(asked.prompts),
            "generated": len(verdicts),
            "questions": sum(len(prompt.questions) for prompt in asked.prompts),
        },
        notes=(
            *asked.notes,
            f"answered by {answerer.name}: published scores are mPLUG-large's, and cannot be compared with these",
        ),
        published=(published_tables()["text_to_image"],),
        sheets=asked.generated.sheet([f"{100 * v.score:.0f}: {v.prompt[:80]}" for v in verdicts]),
        lines=asked.lines(verdicts),
    )


def scores(
    verdicts: Sequence[Verdict], per_prompt: int, answerer: str, generator: torch.Generator, resamples: int
) -> dict[str, dict[str, Figure]]:
    """Return scores from 0 to 100, with intervals over prompts. verdicts: on each prompt's images, prompt by prompt.

    Overall: the mean over images of the share of questions that count. Per category: the share of its questions
    answered yes, over all images, without the rule of dependence, as published.
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
