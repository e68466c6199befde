"""Image files to tensors and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hart.data.transforms import ImageTransform, pil_to_pixels, slightly_moved, to_signed, unit_to_pil
from hart.errors import HartError


def test_centre_square_is_cut_from_wide_and_tall_images() -> None:
    wide = Image.new("RGB", (30, 10), "red")
    wide.paste("blue", (10, 0, 20, 10))
    for image in (wide, wide.rotate(90, expand=True)):
        pixels = pil_to_pixels(image, 10)
        assert pixels.shape == (3, 10, 10)
        assert pixels.dtype == torch.uint8
        assert (pixels[2] == 255).all()
        assert (pixels[0] == 0).all()


def test_moved_images_stay_whole_on_their_ground() -> None:
    image = torch.ones(16, 3, 32, 32)
    image[:, 0, 12:20, 12:20] = -1
    uniform = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    moved = slightly_moved(image, uniform)
    assert moved.amax() <= 1 and moved.amin() >= -1
    torch.testing.assert_close(moved[:, 1:], image[:, 1:])  # no black edges
    area = (moved[:, 0] < 0).sum(dim=(1, 2)) / 64
    assert ((area > 0.7) & (area < 1.6)).all() and area.std() > 0.05
    assert torch.equal(moved[3:5], slightly_moved(image[3:5], uniform[:, 3:5])), "each by its own numbers"


def test_moved_images_of_any_shape_are_turned_and_not_sheared() -> None:
    """The middle of an oblong is the same as the middle of the square around it."""
    square = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    uniform = torch.tensor([[0.9], [0.5], [0.5], [0.5]])  # turned by 4.8 degrees, not shifted
    turned = slightly_moved(square, uniform)[:, :, 26:38, 26:38]
    wide, high = (slightly_moved(oblong, uniform) for oblong in (square[:, :, 16:48], square[..., 16:48]))
    torch.testing.assert_close(wide[:, :, 10:22, 26:38], turned, rtol=0, atol=1e-3)
    torch.testing.assert_close(high[:, :, 26:38, 10:22], turned, rtol=0, atol=1e-3)


def test_shrinking_is_antialiased() -> None:
    stripes = Image.new("L", (64, 64))
    stripes.putdata([255 * (x % 2) for _ in range(64) for x in range(64)])
    pixels = pil_to_pixels(stripes, 8)
    assert ((pixels > 110) & (pixels < 145)).all()


def test_transparency_is_laid_on_white() -> None:
    assert (pil_to_pixels(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), 4) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = b"\0"
    assert (pil_to_pixels(palette, 4) == 255).all()


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


def gradient() -> Image.Image:
    """40 x 20 pixels; red is the column, green the row."""
    columns, rows = np.meshgrid(np.arange(40), np.arange(20))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8), "RGB")


def test_a_random_crop_is_a_window_of_the_image_and_reaches_its_edges() -> None:
    transform = ImageTransform(10, crop="random", shorter_side=2)  # windows of 10 x 10 pixels, not resampled
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        pixels = transform(gradient(), rng)
        left, top = int(pixels[0, 0, 0]), int(pixels[1, 0, 0])
        corners.add((left, top))
        assert torch.equal(pixels[0], torch.arange(left, left + 10, dtype=torch.uint8).expand(10, 10))
        assert torch.equal(pixels[1].T, torch.arange(top, top + 10, dtype=torch.uint8).expand(10, 10))
    for axis, most in ((0, 30), (1, 10)):
        places = {corner[axis] for corner in corners}
        assert min(places) == 0 and max(places) == most


@pytest.mark.parametrize(
    ("size", "window"), [((10, 5), (0, 0, 40, 20)), ((10, 10), (10, 0, 30, 20)), ((5, 10), (15, 0, 25, 20))]
)
def test_any_shape_is_the_largest_window_of_that_shape(
    size: tuple[int, int], window: tuple[int, int, int, int]
) -> None:
    pixels = ImageTransform(size)(gradient())
    wanted = gradient().resize(size, Image.Resampling.BICUBIC, box=window)
    assert torch.equal(pixels, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))
    assert ImageTransform(size, fit="pad")(gradient()).shape == pixels.shape


def test_the_same_random_numbers_give_the_same_crop_and_flip() -> None:
    transform = ImageTransform(8, crop="random", shorter_side=1.2, flip=0.5)
    one, same, other = (transform(gradient(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_flips_come_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    flipped = [bool((row := ImageTransform(20, flip=0.3)(gradient(), rng)[0, 0])[0] > row[-1]) for _ in range(400)]
    assert 0.23 < sum(flipped) / len(flipped) < 0.37
    assert torch.equal(ImageTransform(20, flip=1)(gradient(), rng), pil_to_pixels(gradient(), 20).flip(2))


def test_padding_keeps_the_whole_image_on_white() -> None:
    for image in (Image.new("RGB", (40, 20), "red"), Image.new("RGB", (20, 40), "red")):
        pixels = ImageTransform(16, fit="pad")(image)
        red = (pixels[1] == 0) & (pixels[0] == 255)
        assert red.sum() == 16 * 8
        assert red[8, 8]
        assert (pixels[:, ~red] == 255).all()


def test_settings_without_sense_are_refused() -> None:
    for changes, message in (
        ({"size": 0}, "ImageTransform.size must be at least 1"),
        ({"shorter_side": 0.5}, "at least 1"),
        ({"flip": 2}, "flip must be at most 1"),
        ({"fit": "pad", "crop": "random"}, "cuts nothing"),
        ({"crop": "centre"}, "must be .center. or .random."),
    ):
        with pytest.raises(HartError, match=message):
            ImageTransform(**{"size": 8} | changes)
    with pytest.raises(TypeError, match="generator"):
        ImageTransform(8, flip=0.5)(gradient())
