"""DPG-Bench's protocol (Hu et al., 2024, ELLA, arXiv 2403.05135) as functions of answers: no network runs here.

Each long prompt has yes-or-no questions; a question may depend on others ("is the hat red?" on "is there a hat?").
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hart.errors import HartError
from hart.evaluation.published_files import PublishedFile, read_prompt_file

QUESTIONS = PublishedFile(
    "DPG-Bench",
    "dpg_bench.csv",
    "https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/dpg_bench.csv",
    1065,
)
CATEGORIES = ("global", "entity", "attribute", "relation", "other")
"""In the published order."""
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
YES = "yes"
NO_PARENT = 0


@dataclass(frozen=True)
class Question:
    """category: of `CATEGORIES` in the published file. parents: numbers of the questions that it depends on."""

    text: str
    category: str
    parents: tuple[int, ...]


@dataclass(frozen=True)
class DensePrompt:
    """item: its name. questions: by number, in the order of the file."""

    item: str
    prompt: str
    questions: dict[int, Question] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """Of one image, in the order of the questions. yes: as answered. counted: with the rule of dependence."""

    yes: tuple[bool, ...]
    counted: tuple[bool, ...]

    @property
    def score(self) -> float:
        """Share of questions that count, 0 to 1."""
        return sum(self.counted) / len(self.counted)


def read_questions(file: Path) -> list[DensePrompt]:
    """The published format: a question a row. Raises `HartError` that names the line."""
    reader = csv.DictReader(io.StringIO(read_prompt_file(file), newline=""), strict=True)
    prompts: dict[str, DensePrompt] = {}
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise HartError(f"{file}: has no column {', '.join(missing)}: fetch {QUESTIONS.address}")
        for row in reader:
            _take(row, prompts)
    except (csv.Error, ValueError, AttributeError) as error:
        if isinstance(error, HartError):
            raise
        reason = "a cell is missing" if isinstance(error, AttributeError) else error
        raise HartError(
            f"{file}, line {reader.line_num}: is no question of DPG-Bench ({reason}): see {QUESTIONS.address}"
        ) from None
    if not prompts:
        raise HartError(f"{file}: holds no questions: fetch {QUESTIONS.address}")
    return list(prompts.values())


def judge(questions: Mapping[int, Question], answers: Sequence[str]) -> Judged:
    """Answers, in the order of the questions, to what counts.

    Yes counts 1 and every other answer 0. A question counts 0 when one of its parents does, in the order of the file as
    published, so that a no also reaches questions that depend on it through others. Parents that are not among the
    questions are ignored.
    """
    said = [answer.strip().lower() == YES for answer in answers]
    counts = dict(zip(questions, said, strict=True))
    for number, question in questions.items():
        if not all(counts.get(parent, True) for parent in question.parents):
            counts[number] = False
    return Judged(tuple(said), tuple(counts.values()))


def unknown_parents(prompts: Sequence[DensePrompt]) -> int:
    """How many dependencies name a question that their prompt does not have."""
    return sum(
        parent not in prompt.questions
        for prompt in prompts
        for question in prompt.questions.values()
        for parent in question.parents
    )


def _take(row: Mapping[str, str], prompts: dict[str, DensePrompt]) -> None:
    item, text = row["item_id"].strip(), row["text"].strip()
    question = row["question_natural_language"].strip()
    if not (item and text and question):
        raise ValueError("item_id, text and question_natural_language must not be empty")
    parents = tuple(int(number) for number in row["dependency"].split(","))
    # "attribute - color (hat, red)": what stands before the bracket, and of that before the dash
    category = row["tuple"].split("(")[0].split("-")[0].strip().lower()
    if not category:
        raise ValueError("the tuple has no category")
    prompt = prompts.setdefault(item, DensePrompt(item, text))
    prompt.questions[int(row["proposition_id"])] = Question(
        question, category, tuple(parent for parent in parents if parent != NO_PARENT)
    )
