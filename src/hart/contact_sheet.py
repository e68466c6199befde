"""Several pictures on one: side by side, or a sheet with a labelled row for every prompt."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 4
LABEL_HEIGHT = 16
FONT_SIZE = 12


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """One row of pictures of equal size."""
    return contact_sheet([images])


def contact_sheet(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None) -> Image.Image:
    """Rows of pictures of equal size on white; `labels`, one a row, stand above, cut to the width."""
    width, height = rows[0][0].size
    label_height = LABEL_HEIGHT if labels is not None else 0
    columns = max(map(len, rows))
    sheet = Image.new(
        "RGB",
        (columns * (width + GAP) + GAP, len(rows) * (height + GAP + label_height) + GAP),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    top = GAP
    for i, row in enumerate(rows):
        if labels is not None:
            draw.text((GAP, top), _fitting(labels[i], font, sheet.width - 2 * GAP), "black", font)
            top += label_height
        for column, image in enumerate(row):
            sheet.paste(image, (GAP + column * (width + GAP), top))
        top += height + GAP
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text on one line, shortened with an ellipsis until it fits."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
