"""Where images stand on a sheet."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from hart.generation.contact_sheet import FONT_SIZE, contact_sheet, side_by_side

IMAGE_SIZE = 128


def image(shade: int, image_size: int = IMAGE_SIZE) -> Image.Image:
    return Image.new("RGB", (image_size, image_size), (shade, 0, 0))


def reds_in_reading_order(sheet: Image.Image, shape: tuple[int, int]) -> list[int]:
    """The red value in the middle of each place of a sheet of (columns, rows)."""
    columns, rows = shape
    width, height = sheet.width / columns, sheet.height / rows
    middles = [(int((x + 0.5) * width), int((y + 0.5) * height)) for y in range(rows) for x in range(columns)]
    return [sheet.getpixel(middle)[0] for middle in middles]


def test_side_by_side_keeps_images_as_they_are() -> None:
    row = side_by_side([image(shade, image_size=8) for shade in (10, 20, 30)])
    assert row.height <= 2 * 8
    assert reds_in_reading_order(row, (3, 1)) == [10, 20, 30]


def test_images_of_several_sizes_share_a_sheet() -> None:
    wide, high = (Image.new("RGB", size, (200, 0, 0)) for size in ((128, 64), (64, 128)))
    row = side_by_side([wide, high])
    assert row.size == (128 + 64 + 3 * 4, 128 + 2 * 4)
    assert [row.getpixel(at) for at in ((64, 20), (64, 68), (160, 20))] == [(255,) * 3, (200, 0, 0), (200, 0, 0)]
    assert reds_in_reading_order(contact_sheet([[wide], [high], [wide]], [""] * 3), (3, 1))[0] == 200


def test_each_prompt_has_a_row_of_its_images() -> None:
    groups = [[image(10 * row + column) for column in range(3)] for row in range(2)]
    sheet = contact_sheet(groups, ["a cat", "a dog"])
    assert reds_in_reading_order(sheet, (3, 2)) == [0, 1, 2, 10, 11, 12]


def test_single_images_fill_a_square() -> None:
    for size in (3, 10):
        shades = list(range(size * size))
        sheet = contact_sheet([[image(shade)] for shade in shades], [str(shade) for shade in shades])
        assert reds_in_reading_order(sheet, (size, size)) == shades


@pytest.mark.parametrize(("size", "shown"), [(8, 128), (64, 128), (100, 100), (128, 128), (256, 256)])
def test_small_images_are_enlarged_in_whole_steps(size: int, shown: int) -> None:
    sheet = contact_sheet([[image(200, size)]], ["a label that is far too long for such an image, so it is cut"])
    assert shown <= sheet.width <= shown + 16


def test_a_label_keeps_as_much_of_a_prompt_as_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, *_: drawn.append(text))
    contact_sheet([[image(1)]], ["word " * 20_000])
    contact_sheet([[image(1)]], ["a cat"])
    font = ImageFont.load_default(FONT_SIZE)
    long, short = drawn
    assert font.getlength(long) <= IMAGE_SIZE < font.getlength(long.removesuffix("...") + "word...")
    assert short == "a cat"


def test_letters_that_only_fonts_of_the_system_have_are_told_apart() -> None:
    try:
        ImageFont.truetype("DejaVuSans")
    except OSError:
        pytest.skip("no such font")
    assert len({contact_sheet([[image(1)]], [label]).tobytes() for label in ("café", "cafß", "cafи")}) == 3
