"""The judge of colours, backgrounds, counts and drawings on images whose answer is plain."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from hart.evaluation import Context, SamplingOptions
from hart_emoji.data.recolour import COLOURS, plain_rgb
from hart_emoji.suites import scenes as judge
from tiny import save_model


def discs(
    centres: list[tuple[int, int]], colour: tuple[int, int, int], background: tuple[int, int, int]
) -> Image.Image:
    image = Image.new("RGB", (96, 96), background)
    for x, y in centres:
        ImageDraw.Draw(image).ellipse((x - 14, y - 14, x + 14, y + 14), fill=colour)
    return image


WHITE = (255, 255, 255)


def test_colours_and_backgrounds() -> None:
    for word in judge.WORDS:
        assert judge.colour_of(discs([(48, 48)], plain_rgb(word), WHITE)) == word
        assert judge.background_of(discs([(48, 48)], WHITE, plain_rgb(word))) == word
    assert judge.background_of(discs([(48, 48)], plain_rgb("red"), WHITE)) == "white"
    assert judge.colour_of(Image.new("RGB", (96, 96), "white")) is None


def test_counts_leave_specks_out() -> None:
    centres = [(20, 20), (76, 20), (20, 76), (76, 76)]
    for number in range(5):
        image = discs(centres[:number], (200, 30, 30), WHITE)
        image.putpixel((48, 48), (0, 0, 0))
        assert len(judge.blots(image)) == number


def test_drawings_are_without_colour_and_empty_or_full() -> None:
    ring = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(ring).ellipse((20, 20, 76, 76), outline="black", width=3)
    assert judge.drawn_as(ring) == "line drawing"
    assert judge.drawn_as(discs([(48, 48)], (10, 10, 10), WHITE)) == "silhouette"
    assert judge.drawn_as(discs([(48, 48)], (150, 20, 20), WHITE)) is None
    assert judge.drawn_as(Image.new("RGB", (96, 96), "white")) is None


def test_prompts_name_each_thing_in_every_way() -> None:
    prompts = judge.prompts()
    texts = [prompt for _, prompt, _ in prompts]
    assert len(texts) == len(set(texts)) == len(judge.THINGS) * (2 * len(judge.WORDS) + len(judge.NUMBERS) + 2)
    assert {"an orange apple", "a fish on a blue background", "three top hats"} <= set(texts)
    assert all(wanted in COLOURS for kind, _, wanted in prompts if kind in ("colour", "background"))


def test_the_suite_counts_what_is_right(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    context = Context(SamplingOptions(model=str(model), device="cpu", resamples=2, batch_size=50), tmp_path / "out")
    result = judge.SUITE(context)
    assert result.counts == {"colour": 70, "background": 70, "count": 30, "drawn": 20}
    assert all(0 <= row["right"].value <= 1 for row in result.figures.values())
