"""Image files to tensors and back."""

from __future__ import annotations

import torch
from PIL import Image

from hart.data.transforms import pil_to_pixels, to_signed, unit_to_pil


def test_centre_square_is_cut_from_wide_and_tall_images() -> None:
    wide = Image.new("RGB", (30, 10), "red")
    wide.paste("blue", (10, 0, 20, 10))
    for image in (wide, wide.rotate(90, expand=True)):
        pixels = pil_to_pixels(image, 10)
        assert pixels.shape == (3, 10, 10)
        assert pixels.dtype == torch.uint8
        assert (pixels[2] == 255).all()
        assert (pixels[0] == 0).all()


def test_shrinking_is_antialiased() -> None:
    stripes = Image.new("L", (64, 64))
    stripes.putdata([255 * (x % 2) for _ in range(64) for x in range(64)])
    pixels = pil_to_pixels(stripes, 8)
    assert ((pixels > 110) & (pixels < 145)).all()


def test_transparency_is_laid_on_white() -> None:
    assert (pil_to_pixels(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), 4) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert (pil_to_pixels(palette, 4) == 255).all()


def test_exif_orientation_is_followed() -> None:
    image = Image.new("RGB", (4, 4), "white")
    image.putpixel((0, 0), (0, 0, 0))
    image.getexif()[0x0112] = 3  # turned by 180 degrees
    assert pil_to_pixels(image, 4)[:, 3, 3].tolist() == [0, 0, 0]


def test_pixels_survive_the_round_trip_exactly() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1).contiguous()
    signed = to_signed(pixels)
    assert signed.dtype == torch.float32
    assert (signed.min().item(), signed.max().item()) == (-1.0, 1.0)
    back = pil_to_pixels(unit_to_pil((signed + 1) / 2), 16)
    assert torch.equal(back, pixels)


def test_values_out_of_range_are_clipped() -> None:
    image = unit_to_pil(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)
