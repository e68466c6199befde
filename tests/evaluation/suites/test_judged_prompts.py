"""Scores of the suites, kept verdicts, and the commands with tiny networks."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clip_models import save_tiny_clip
from command_line import evaluate, figures, refused
from hart.errors import HartError
from hart.evaluation.published_files import PublishedFile
from hart.evaluation.report import published_tables
from hart.evaluation.suites import dpg, geneval
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import JudgedPromptsOptions
from hart.evaluation.suites.dpg import QUESTIONS
from hart.evaluation.suites.geneval import PROMPTS, TASKS
from hart.evaluation.suites.judged_prompts import JudgedPrompts
from hart.strict import Config
from judge_models import save_answerer, save_detector
from models import save_tiny_text_model

PROMPT_LINES = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
]
QUESTION_TABLE = """\
item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language
x1,a red hat,,1,0,entity,whole,entity - whole (hat),is there a hat?
x1,a red hat,,2,1,attribute,color,"attribute - color (hat, red)",is the hat red?
x2,a wide view,,1,0,global,,global - (wide view),is it a view?
"""


@dataclass(frozen=True)
class Prompt:
    prompt: str


class Number(Config):
    number: int


ONE = PublishedFile("ONE", "https://home/one.jsonl", 2)


def asked(models: Path, out: Path, *texts: str, published: PublishedFile = ONE, **options: Any) -> JudgedPrompts:
    given = JudgedPromptsOptions(model=str(models / "text"), device="cpu", **options)
    return JudgedPrompts(Context(given, out), published, [Prompt(text) for text in texts], [""] * len(texts))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_text_model(folder / "text")
    save_detector(folder / "mask2former-tiny")
    save_tiny_clip(folder / "clip-tiny")
    save_answerer(folder / "blip-tiny")
    return folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_geneval_scores_are_means_over_tasks() -> None:
    tags = ["single_object", "counting", "counting", "counting"]
    right = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    rows = geneval.scores(tags, right, "judge", torch.Generator().manual_seed(0), resamples=50)
    share, once = "right images (judge)", "prompts with a right image (judge)"
    assert list(rows) == ["overall", "single object", "counting"]
    assert rows["counting"][share].value == pytest.approx(3 / 12)
    assert rows["counting"][once].value == pytest.approx(2 / 3)
    # not 7 of 16: tasks weigh the same
    assert rows["overall"][share].value == pytest.approx((1 + 3 / 12) / 2)
    interval = rows["overall"][share]
    assert interval.low is not None and interval.high is not None
    # the task with one prompt adds no width, and the other at most half of its own
    assert 0 < interval.high - interval.low <= 0.5 / 2


def test_dpg_scores() -> None:
    def verdict(*answers: tuple[str, bool, bool]) -> dpg.Verdict:
        return dpg.Verdict(
            "x1",
            "a hat",
            sum(counted for *_, counted in answers) / len(answers),
            tuple(dpg.Answer(1, category, "?", "", yes, counted, "") for category, yes, counted in answers),
        )

    verdicts = [
        verdict(("entity", True, True), ("attribute", True, True)),
        verdict(("entity", False, False), ("attribute", True, False)),
        verdict(("global", True, True), ("style", True, True), ("entity", True, True), ("entity", False, False)),
        verdict(("global", False, False), ("style", True, True), ("entity", True, True), ("entity", True, True)),
    ]
    rows = dpg.scores(verdicts, 2, "blip", torch.Generator(), resamples=20)
    values = {row: figures["score (blip)"].value for row, figures in rows.items()}
    # published categories in their order, then others
    assert list(values) == ["overall", "global", "entity", "attribute", "style"]
    assert values["overall"] == pytest.approx(100 * (1 + 0 + 0.75 + 0.75) / 4)
    # a category is the share of answers, whatever they depend on
    assert values["attribute"] == 100 and values["global"] == 50
    assert values["entity"] == pytest.approx(100 * 4 / 6)


def test_published_rows_are_those_that_are_measured_and_their_mean() -> None:
    table = published_tables()["geneval"]
    assert list(table.rows) == ["overall", *TASKS.values()]
    for column in range(len(table.columns)):
        overall, *tasks = (float(cells[column]) for cells in table.rows.values())
        assert sum(tasks) / len(tasks) == pytest.approx(overall, abs=0.0101)


def test_parts_are_said(models: Path, tmp_path: Path) -> None:
    said = "where ONE has 2 with 4: do not compare"
    for number, (options, part) in enumerate((({}, False), ({"limit": 1}, True), ({"per_prompt": 1}, True))):
        notes = asked(models, tmp_path / str(number), "a cat", "a dog", **options).notes
        assert any(said in note for note in notes) is part


def test_verdicts_are_kept_for_the_same_image_question_and_judge(models: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def judge(numbers: list[int]) -> list[Number]:
        calls.extend(numbers)
        return [Number(number) for number in numbers]

    def again(facts: str = "one", *texts: str) -> list[int]:
        calls.clear()
        found = asked(models, tmp_path, *(texts or ("a cat", "a dog")), per_prompt=2)
        verdicts = found.verdicts(Number, {"judge": facts}, judge, 3)
        (lines,) = found.lines(verdicts).values()
        assert [line["image"] for line in lines] == [f"{i:06d}.png" for i in range(4)]
        return list(calls)

    assert again() == [0, 1, 2, 3]
    assert again() == []
    Image.new("RGB", (8, 8), "white").save(tmp_path / "images" / "000001.png")
    assert again() == [1]
    assert again("two") == [0, 1, 2, 3]
    assert again() == []
    # what is no verdict is named
    for content, said in (('{"number', "is not JSON"), ('{"number": "x"}', "number: expected a whole number")):
        for file in (tmp_path / "measured").iterdir():
            file.write_text(content)
        with pytest.raises(HartError, match=rf"\.json: {said}.*: delete it, and it is computed again"):
            again()


def test_geneval_end_to_end(models: Path, tmp_path: Path) -> None:
    data, out = tmp_path / PROMPTS.name, tmp_path / "out"
    data.write_text("".join(json.dumps(line) + "\n" for line in PROMPT_LINES))
    arguments = ("geneval", "--model", models / "text", "--data", tmp_path, "--detector", models / "mask2former-tiny",
                 "--detector-size", 64, "--clip", models / "clip-tiny", "--per-prompt", 2, "--judge-batch", 3,
                 "--resamples", 5, "--device", "cpu", "--out", out)  # fmt: skip
    result = evaluate(*arguments)
    values = figures(result, out)
    assert "do not compare with published scores" in result.stderr and "mmdetection" in result.stderr
    assert list(values["figures"]) == ["overall", "single object", "colours"]
    assert set(values["figures"]["overall"]) == {
        "right images (mask2former-tiny, clip-tiny)",
        "prompts with a right image (mask2former-tiny, clip-tiny)",
    }
    assert values["counts"]["prompts"] == 2 and values["counts"]["generated"] == 4
    assert values["settings"]["detector_image_size"] == 64 and values["settings"]["confidence"] == 0.3
    verdicts = lines(out / "verdicts.jsonl")
    assert [v["prompt"] for v in verdicts] == [line["prompt"] for line in PROMPT_LINES for _ in range(2)]
    assert all(v["correct"] or v["reason"] for v in verdicts)
    page = (out / "table.md").read_text()
    assert "## Published: paper, Table 2" in page and "IF-XL" in page
    assert (out / "generated.png").exists()
    # nothing is generated or judged again
    before = (out / "verdicts.jsonl").stat().st_mtime_ns, (out / "images" / "000000.png").stat().st_mtime_ns
    assert figures(evaluate(*arguments), out)["figures"] == values["figures"]
    assert (out / "images" / "000000.png").stat().st_mtime_ns == before[1]
    judged = len(list((out / "measured").iterdir()))
    # the same weights with other names of classes say something else of an image
    config = shutil.copytree(models / "mask2former-tiny", tmp_path / "mask2former-tiny") / "config.json"
    values = json.loads(config.read_text())
    values["id2label"] |= {"0": values["id2label"]["1"], "1": values["id2label"]["0"]}
    config.write_text(json.dumps(values))
    evaluate(*(config.parent if word == models / "mask2former-tiny" else word for word in arguments))
    assert len(list((out / "measured").iterdir())) == 2 * judged


def test_dpg_end_to_end(models: Path, tmp_path: Path) -> None:
    (tmp_path / QUESTIONS.name).write_text(QUESTION_TABLE)
    out = tmp_path / "out"
    result = evaluate("dpg", "--model", models / "text", "--data", tmp_path, "--vqa", models / "blip-tiny",
                      "--per-prompt", 2, "--limit", 2, "--resamples", 5, "--device", "cpu", "--out", out)  # fmt: skip
    values = figures(result, out)
    assert "mPLUG-large" in result.stderr
    assert list(values["figures"]) == ["overall", "global", "entity", "attribute"]
    assert set(values["figures"]["overall"]) == {"score (blip-tiny)"}
    assert values["counts"] == {"prompts": 2, "generated": 4, "questions": 3}
    verdicts = lines(out / "verdicts.jsonl")
    assert [v["item"] for v in verdicts] == ["x1", "x1", "x2", "x2"]
    answer = verdicts[0]["answers"][1]
    assert answer["question"] == "is the hat red?" and isinstance(answer["answer"], str)
    assert answer["counted"] or answer["reason"]
    assert "HART 1024" in (out / "table.md").read_text()


@pytest.mark.parametrize(("suite", "name"), [("geneval", PROMPTS), ("dpg", QUESTIONS)])
def test_a_missing_prompt_file_is_said_with_its_address(suite: str, name: Any, tmp_path: Path) -> None:
    assert name.address in refused(evaluate(suite, "--data", tmp_path, "--out", tmp_path / "out"), notes=True)
