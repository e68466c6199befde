"""DPG-Bench's verdicts from made-up answers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hart.errors import HartError
from hart.evaluation.suites.dpg import COLUMNS, DensePrompt, Question, Verdict, judge, read_questions

# 2 and 3 depend on 1, 4 on 2 and 3
QUESTIONS = {
    1: Question("is there a hat?", "entity", ()),
    2: Question("is the hat red?", "attribute", (1,)),
    3: Question("is there a cat in the hat?", "entity", (1,)),
    4: Question("is the cat red?", "attribute", (2, 3)),
}


def verdict(questions: dict[int, Question], answers: tuple[str, ...]) -> Verdict:
    return judge(DensePrompt("x", "a b", questions), answers)


@pytest.mark.parametrize(
    ("answers", "counted"),
    [
        (("yes", "yes", "yes", "yes"), (1, 1, 1, 1)),
        (("yes", "no", "yes", "yes"), (1, 0, 1, 0)),
        # a no reaches the last question through those between
        (("no", "yes", "yes", "yes"), (0, 0, 0, 0)),
        (("yes", "yes", "yes", "no"), (1, 1, 1, 0)),
        ((" Yes", "YES", "red", "yes it is"), (1, 1, 0, 0)),
        (("no", "no", "no", "no"), (0, 0, 0, 0)),
    ],
)
def test_a_question_counts_where_its_parents_do(answers: tuple[str, ...], counted: tuple[int, ...]) -> None:
    judged = verdict(QUESTIONS, answers)
    assert [answer.counted for answer in judged.answers] == list(map(bool, counted))
    assert [answer.yes for answer in judged.answers] == [answer.strip().lower() == "yes" for answer in answers]
    assert judged.score == sum(counted) / 4


def test_parents_that_come_later_count_by_their_answer() -> None:
    questions = {1: Question("a?", "entity", (2,)), 2: Question("b?", "entity", (3,)), 3: Question("c?", "entity", ())}
    # as published: in the order of the file, 1 is settled before 2 is
    for said, counted in (("yyn", [True, False, False]), ("yny", [False, False, True])):
        answers = tuple("yes" if one == "y" else "no" for one in said)
        assert [answer.counted for answer in verdict(questions, answers).answers] == counted


def test_unknown_parents_are_passed_over() -> None:
    questions = {1: Question("a?", "entity", (7,)), 2: Question("b?", "entity", (1, 9))}
    assert verdict(questions, ("yes", "yes")).score == 1


ROWS = [
    ("a1", "a hat", "1", "0", "entity - whole (hat)", "Is there a hat?"),
    ("a1", "a hat", "2", "1", "attribute - color (hat, red)", "Is the hat, in fact, red?"),
    ("a1", "a hat", "3", "1, 2", "relation - spatial (hat, cat, on)", "Is it on the cat?"),
    ("b2", "a view", "1", "0", "global - (view)", "Is it a view?"),
]


def write(file: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


def test_the_published_format_is_read(tmp_path: Path) -> None:
    first, second = read_questions(write(tmp_path / "dpg_bench.csv", ROWS))
    assert (first.item, first.prompt, second.prompt) == ("a1", "a hat", "a view")
    assert first.questions[2] == Question("Is the hat, in fact, red?", "attribute", (1,))
    assert first.questions[3].parents == (1, 2) and first.questions[3].category == "relation"
    assert first.questions[1].parents == () and second.questions[1].category == "global"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a1", "a hat", "x", "0", "entity - whole (hat)", "Is there?"), "line 2"),
        (("a1", "a hat", "1", "none", "entity - whole (hat)", "Is there?"), "line 2"),
        (("a1", "a hat", "1", "0", "(hat)", "Is there?"), "the tuple has no category"),
        (("a1", "a hat", "1", "0", "entity (hat)", ""), "must not be empty"),
        (("a1", "a hat", "1"), "must not be empty"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: tuple[str, ...], said: str) -> None:
    with pytest.raises(HartError, match=said):
        read_questions(write(tmp_path / "x.csv", [row]))


def test_missing_columns_and_rows_are_said(tmp_path: Path) -> None:
    with pytest.raises(HartError, match="there is no column tuple, question_natural_language"):
        read_questions(write(tmp_path / "x.csv", [row[:4] for row in ROWS], COLUMNS[:4]))
    with pytest.raises(HartError, match="holds no questions"):
        read_questions(write(tmp_path / "x.csv", []))
