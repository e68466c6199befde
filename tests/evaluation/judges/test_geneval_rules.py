"""GenEval's verdicts from made-up detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hart.errors import HartError
from hart.evaluation.judges.objects import Found
from hart.evaluation.suites.geneval import (
    MOST_OBJECTS,
    ObjectPrompt,
    Wanted,
    counted_objects,
    faults,
    read_prompts,
    relations,
)

CENTRE = (40, 40, 60, 60)


def found(name: str, score: float = 0.95, box: tuple[int, int, int, int] = CENTRE) -> Found:
    return Found(name, box, score, torch.ones(100, 100, dtype=torch.bool))


def no_colours(_name: str, _objects: Sequence[Found]) -> list[str]:
    raise AssertionError("no colour was asked for")


def said(prompt: ObjectPrompt, objects: Sequence[Found], colours: Sequence[str] | None = None) -> list[str]:
    """Faults of an image; colours: of its objects, most confident first."""
    if colours is None:
        return faults(prompt, counted_objects(objects, prompt.tag), no_colours)
    order = sorted(objects, key=lambda item: -item.score)

    def colours_of(_name: str, items: Sequence[Found]) -> list[str]:
        return [colours[order.index(item)] for item in items]

    return faults(prompt, counted_objects(objects, prompt.tag), colours_of)


def test_all_objects_are_needed_and_every_fault_is_said() -> None:
    prompt = ObjectPrompt("two_object", "a bench and a dog", (Wanted("bench", 1), Wanted("dog", 1)))
    assert said(prompt, [found("bench"), found("dog"), found("dog")]) == []
    assert said(prompt, [found("dog")]) == ["expected bench>=1, found 0"]
    assert len(said(prompt, [])) == 2


@pytest.mark.parametrize(("scores", "right"), [((0.3,), False), ((0.31,), True), ((0.1, 0.5), True)])
def test_an_object_counts_above_the_threshold(scores: tuple[float, ...], right: bool) -> None:
    prompt = ObjectPrompt("single_object", "a bench", (Wanted("bench", 1),))
    assert (said(prompt, [found("bench", score) for score in scores]) == []) is right


@pytest.mark.parametrize(
    ("scores", "faults"),
    [
        ((0.95, 0.95), []),
        ((0.95, 0.9), ["expected bench>=2, found 1"]),
        ((0.95, 0.95, 0.8), []),
        ((0.95, 0.95, 0.91), ["expected bench<3, found 3"]),
    ],
)
def test_counting_is_exact_and_asks_for_more_confidence(scores: tuple[float, ...], faults: list[str]) -> None:
    prompt = ObjectPrompt("counting", "two benches", (Wanted("bench", 2),), (Wanted("bench", 3),))
    assert said(prompt, [found("bench", score) for score in scores]) == faults


def test_objects_are_ordered_and_limited_by_class() -> None:
    items = [found("dog", 0.4 + 0.01 * i) for i in range(MOST_OBJECTS + 5)] + [found("cat", 0.35), found("tie", 0.2)]
    objects = counted_objects(items, "two_object")
    assert set(objects) == {"dog", "cat"}
    scores = [item.score for item in objects["dog"]]
    assert len(scores) == MOST_OBJECTS and scores == sorted(scores, reverse=True) and scores[0] == items[20].score


def test_colour_is_that_of_the_most_confident_object() -> None:
    prompt = ObjectPrompt("colors", "a red car", (Wanted("car", 1, "red"),))
    cars = [found("car", 0.9), found("car", 0.8)]
    assert said(prompt, cars, ["red", "blue"]) == []
    assert said(prompt, cars, ["blue", "red"]) == ["expected red car>=1, found 0; they are blue"]
    # without the object no colour is asked
    assert said(prompt, []) == ["expected car>=1, found 0"]
    two = ObjectPrompt("colors", "two red cars", (Wanted("car", 2, "red"),))
    assert said(two, cars, ["red", "pink"]) == ["expected red car>=2, found 1; they are red, pink"]


def test_colour_attribution_swapped_is_wrong() -> None:
    prompt = ObjectPrompt("color_attr", "a red car and a blue dog", (Wanted("car", 1, "red"), Wanted("dog", 1, "blue")))
    pair = [found("car", 0.9), found("dog", 0.8)]
    assert said(prompt, pair, ["red", "blue"]) == []
    assert len(said(prompt, pair, ["blue", "red"])) == 2
    assert len(said(prompt, pair, ["red", "red"])) == 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 40, 20, 60), ("left of",)),
        ((80, 40, 100, 60), ("right of",)),
        ((40, 0, 60, 20), ("above",)),
        ((40, 80, 60, 100), ("below",)),
        ((0, 0, 20, 20), ("left of", "above")),
        ((80, 80, 100, 100), ("right of", "below")),
        # in the same place, and moved by no more than a tenth of both widths
        (CENTRE, ()),
        ((44, 40, 64, 60), ()),
        # just beyond it: of 9 pixels apart 5 are left, of 7 only 3, which is less than half
        ((49, 40, 69, 60), ("right of",)),
        ((47, 40, 67, 60), ()),
        # mostly above, a little to the left: 16 and 6 of 22 pixels
        ((30, 20, 50, 40), ("above",)),
        # a large target takes more room for itself
        ((0, 0, 100, 100), ()),
    ],
)
def test_relations_of_boxes(box: tuple[int, int, int, int], expected: tuple[str, ...]) -> None:
    assert relations(box, CENTRE) == expected
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert set(relations(CENTRE, box)) == {opposite[name] for name in expected}


def test_position() -> None:
    prompt = ObjectPrompt("position", "a dog left of a cat", (Wanted("cat", 1), Wanted("dog", 1, None, ("left of", 0))))
    cat, left, right = found("cat"), found("dog", 0.9, (0, 40, 20, 60)), found("dog", 0.8, (80, 40, 100, 60))
    assert said(prompt, [cat, left]) == []
    # only the most confident dog counts
    assert said(prompt, [cat, left, right]) == []
    assert said(prompt, [cat, right]) == ["expected dog left of cat, found right of"]
    assert said(prompt, [cat, found("dog")]) == ["expected dog left of cat, found neither side"]
    assert said(prompt, [left]) == ["expected cat>=1, found 0", "no target for dog to be left of"]
    assert said(prompt, [cat]) == ["expected dog>=1, found 0"]


def test_a_target_of_the_wrong_colour_is_no_target() -> None:
    prompt = ObjectPrompt(
        "position", "a dog above a red cat", (Wanted("cat", 1, "red"), Wanted("dog", 1, None, ("above", 0)))
    )
    both = [found("cat", 0.9), found("dog", 0.8, (40, 0, 60, 20))]
    assert said(prompt, both, ["red", "-"]) == []
    assert said(prompt, both, ["pink", "-"])[1] == "no target for dog to be above"


def test_all_pairs_hold() -> None:
    prompt = ObjectPrompt(
        "position", "two dogs left of a cat", (Wanted("cat", 1), Wanted("dog", 2, None, ("left of", 0)))
    )
    left, right = found("dog", 0.9, (0, 40, 20, 60)), found("dog", 0.8, (80, 40, 100, 60))
    assert said(prompt, [found("cat"), left, left]) == []
    assert said(prompt, [found("cat"), left, right]) == ["expected dog left of cat, found right of"]


LINE = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


def test_the_published_format_is_read(tmp_path: Path) -> None:
    lines = [
        LINE,
        {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}],
         "prompt": "a photo of two clocks"},
        {"tag": "position", "include": [{"class": "cat", "count": 1},
         {"class": "dog", "count": 1, "position": ["left of", 0]}], "prompt": "a photo of a dog left of a cat"},
        {"tag": "colors", "include": [{"class": "tv remote", "count": 1, "color": "red"}], "prompt": "a red tv remote"},
    ]  # fmt: skip
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    single, counting, position, colours = read_prompts(file)
    assert single == ObjectPrompt("single_object", "a photo of a bench", (Wanted("bench", 1),))
    assert counting.exclude == (Wanted("clock", 3),)
    assert position.include[1] == Wanted("dog", 1, None, ("left of", 0))
    assert colours.include == (Wanted("tv remote", 1, "red"),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tag": "style"}, "tag must be 'single_object', "),
        ({"prompt": " "}, "prompt: is empty"),
        ({"include": []}, "include: is empty"),
        ({"include": [{"class": "unicorn", "count": 1}]}, "unknown class 'unicorn'"),
        ({"include": [{"class": "dog"}]}, "include[0].count: missing key"),
        ({"include": [{"class": "dog", "count": 0}]}, "include[0].count must be at least 1, not 0"),
        ({"include": [{"class": "dog", "count": 1, "color": "teal"}]}, "include[0].color must be 'red', "),
        (
            {"include": [{"class": "dog", "count": 1, "position": ["near", 0]}]},
            "include[0].position[0] must be 'left of', ",
        ),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "does not come before it"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"{json.dumps(LINE)}\n\n{json.dumps(LINE | change)}\n")
    with pytest.raises(HartError, match="line 3: is not a prompt of GenEval") as error:
        read_prompts(file)
    assert reason in str(error.value)


def test_no_json_and_no_lines_are_said(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("a bench\n")
    with pytest.raises(HartError, match="line 1"):
        read_prompts(file)
    file.write_text("\n")
    with pytest.raises(HartError, match="holds no prompts"):
        read_prompts(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HartError, match="UTF-8"):
        read_prompts(file)
