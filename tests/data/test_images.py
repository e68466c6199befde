"""Opening image files: as a viewer shows them, upright, in sRGB and in 8 bits, within bounds."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo

from hart.data.datasets import read_all as in_memory
from hart.data.images import MAX_PIXELS, as_rgb, decode_image, open_image, upright, upright_size
from hart.data.opening import open_source
from hart.data.samples import Sample
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.generation.canvas import require_image
from image_files import encoded_image, numbered
from set_formats import read_all


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """One that says so, and breaks off before its pixels: nobody who looks at its size first minds."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + whole + struct.pack(">I", 9) + b"IDAT" + b"\0" * 13


def test_a_film_behind_a_photograph_is_no_matter() -> None:
    film = bytes(np.random.default_rng(0).integers(256, size=2**24, dtype=np.uint8))
    assert decode_image(encoded(Image.new("L", (8, 8)), "JPEG") + film).size == (8, 8)


# --- orientation


def exif(tags: list[bytes], order: str = "<") -> bytes:
    """A directory of tags that are 12 bytes each."""
    begin = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + begin + struct.pack(f"{order}IH", 8, len(tags)) + b"".join(tags) + b"\0" * 16


TURN = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
MISTYPED = struct.pack("<HHI4s", 0x100, 2, 4, b"32\0\0")
EXIFS = {
    "as it should be": (exif([TURN]), True),
    "big-endian": (exif([struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)], ">"), True),
    "as a long": (exif([struct.pack("<HHII", 0x112, 4, 1, 6)]), True),
    "after a mistyped tag": (exif([MISTYPED, TURN]), True),
    "before one that lies outside": (exif([TURN, struct.pack("<HHII", 0x8769, 4, 1, 2**31)]), True),
    "broken off after it": (exif([TURN])[: 6 + 8 + 2 + 12], True),
    "of a value that is none": (exif([struct.pack("<HHIHH", 0x112, 3, 1, 77, 0)]), False),
    "that is none": (b"Exif\0\0nothing", False),
    "that begins outside": (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tags", "turned"), EXIFS.values(), ids=EXIFS)
def test_broken_exif_stops_nothing_and_orientation_is_followed_where_it_can_be_read(tags: bytes, turned: bool) -> None:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("red", (0, 0, 16, 16))  # on the left; upright it is on top
    for kind in ("JPEG", "PNG", "WEBP"):
        content = encoded(image, kind, exif=tags, quality=95)
        seen = as_rgb(decode_image(content))
        assert seen.size == upright_size(content) == ((16, 32) if turned else (32, 16)), kind
        red = seen.crop((0, 0, 16, 12) if turned else (0, 0, 12, 16))
        assert np.asarray(red)[..., 1].mean() < 60
        assert as_rgb(seen).tobytes() == seen.tobytes()  # it is turned once


def turned_by_xmp(kind: str) -> bytes:
    """32 x 16 pixels, of which only XMP says that they lie on their side. kind: of the file, and where it has that."""
    said = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    image, text = Image.new("RGB", (32, 16), "red"), PngInfo()
    if not kind.startswith("PNG"):
        return encoded(
            image, kind, **({"tiffinfo": {700: said.encode()}} if kind == "TIFF" else {"xmp": said.encode()})
        )
    text.add_itxt("XML:com.adobe.xmp", said, zip=kind == "PNG, packed")
    content = encoded(image, "PNG", pnginfo=text)
    if kind == "PNG, at its end":
        start = content.index(b"iTXt") - 4
        chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
        content = content.replace(chunk, b"").replace(end := content[-12:], chunk + end)
    return content


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG", "PNG, packed", "PNG, at its end"])
def test_an_orientation_in_xmp_alone_is_that_of_the_size_too(kind: str) -> None:
    content = turned_by_xmp(kind)
    assert as_rgb(decode_image(content)).size == upright_size(content) == (16, 32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_an_image_of_any_mode_is_turned_once(mode: str) -> None:
    whole = Image.new("L", (32, 16), 255)
    whole.paste(0, (0, 0, 16, 16))
    image = whole.convert("RGB").convert(mode.replace(";16", ""))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(whole).astype(np.uint16) * 257)
    image.getexif()[0x0112] = 6
    for turned in (upright(image), as_rgb(image)):
        assert turned.size == as_rgb(turned).size == (16, 32)
        assert as_rgb(turned).convert("L").tobytes() == bytes(16 * 16) + b"\xff" * 16 * 16


# --- depth


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("step", [1040, 4])
def test_grey_of_16_bits_is_scaled_and_not_clipped(kind: str, step: int) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint16) * step, (64, 1))
    pgm = b"P5 64 64 65535\n" + ramp.astype(">u2").tobytes()
    content = pgm if kind == "PPM" else encoded(Image.fromarray(ramp), kind)
    seen = np.asarray(as_rgb(decode_image(content)))
    assert np.abs(seen.astype(int) - (ramp >> 8)[..., None]).max() <= 1


def test_a_grey_of_16_bits_that_is_transparent_is_white() -> None:
    content = encoded(Image.fromarray(np.array([[1_000, 30_000]], np.uint16)), "PNG", transparency=1_000)
    assert np.asarray(as_rgb(decode_image(content)))[..., 0].tolist() == [[255, 117]]


@pytest.mark.parametrize(("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0, 128, 255], [0, 128, 255])])
def test_floats_and_wide_integers_are_taken_by_their_range(values: list[float], expected: list[int]) -> None:
    for dtype in (np.float32, np.int32)[: 1 if isinstance(values[1], float) else 2]:
        seen = as_rgb(decode_image(encoded(Image.fromarray(np.array([values], dtype)), "TIFF")))
        assert np.asarray(seen)[0, :, 0].tolist() == expected
    wide = Image.fromarray(np.array([[0, 70_000]], np.int32))
    with pytest.raises(HartError, match="has grey values up to 70000: store it in 8 or 16 bits"):
        decode_image(encoded(wide, "TIFF"))
    not_a_number = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 3]], np.float32))
    as_rgb(decode_image(encoded(not_a_number, "TIFF")))


def test_lab_is_read_by_its_colours() -> None:
    # L* of 255 is 100; a* and b* are signed bytes. Red, blue and grey of sRGB in the white of D50, as TIFF has it
    lab = np.array([[(112, 64, 47), (123, -5, -50), (98, 0, 0)]], np.int64).astype(np.uint8)
    seen = np.asarray(as_rgb(decode_image(encoded(Image.fromarray(lab, "LAB"), "TIFF")))).astype(int)
    assert np.abs(seen - [[(200, 30, 30), (25, 120, 200), (90, 90, 90)]]).max() <= 2


# --- colours

SRGB = {"r": (0.43607, 0.22249, 0.01392), "g": (0.38515, 0.71687, 0.09708), "b": (0.14307, 0.06061, 0.71410)}
DISPLAY_P3 = {"r": (0.5151, 0.2412, -0.0011), "g": (0.2920, 0.6922, 0.0419), "b": (0.1571, 0.0666, 0.7841)}
"""XYZ of the primaries, adapted to D50, as profiles hold them."""


def profile(primaries: dict[str, tuple[float, ...]] = SRGB) -> bytes:
    """That of sRGB with other primaries."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for name, xyz in primaries.items():
        (start,) = struct.unpack_from(">4xI", content, content.index(f"{name}XYZ".encode()))
        content[start : start + 20] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in xyz))
    return bytes(content)


def in_srgb(pixels: np.ndarray, primaries: dict[str, tuple[float, ...]]) -> np.ndarray:
    """Pixels (..., 3) of other primaries in sRGB, in float64, by the formulas of IEC 61966-2-1."""
    to_xyz, from_xyz = np.array([*primaries.values()]), np.linalg.inv(np.array([*SRGB.values()]))
    shares = pixels / 255
    light = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ to_xyz @ from_xyz
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_colours_are_those_of_the_profile_in_srgb() -> None:
    drawn = np.random.default_rng(0).integers(256, size=(16, 12, 4), dtype=np.uint8)
    colours, share = drawn[..., :3], drawn[..., 3:] / 255
    expected = in_srgb(colours, DISPLAY_P3)
    assert np.abs(expected - colours).max() > 60
    for pixels, right in ((colours, expected), (drawn, expected * share + 255 * (1 - share))):
        image = as_rgb(decode_image(encoded(Image.fromarray(pixels), "PNG", icc_profile=profile(DISPLAY_P3))))
        assert np.abs(np.asarray(image) - right).max() < 2
        assert as_rgb(image).tobytes() == image.tobytes()  # they are converted once
    few = Image.fromarray(colours).quantize(8)
    image = as_rgb(decode_image(encoded(few, "PNG", icc_profile=profile(DISPLAY_P3))))
    assert np.abs(np.asarray(image) - in_srgb(np.asarray(few.convert("RGB")), DISPLAY_P3)).max() < 2


D50 = struct.pack(">3i", *(round(65536 * value) for value in (0.9642, 1, 0.8249)))
"""White, as profiles hold it."""


def profile_of(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """A profile of ICC's version 4 for colours in `space`, as its specification lays it out."""
    head = bytearray(128)
    head[8:24] = b"\x04\x20\0\0mntr" + space + connection
    head[36:40] = b"acsp"
    head[68:80] = D50
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", len(head) + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    whole = bytes(head) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


WHITE = {b"wtpt": b"XYZ \0\0\0\0" + D50}
GREY = profile_of(b"GRAY", WHITE | {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 512)})
"""Its light is the square of its values."""


def test_grey_is_that_of_the_profile_with_and_without_transparency() -> None:
    ramp = Image.linear_gradient("L")
    light = (np.asarray(ramp, np.float64) / 255) ** 2
    right = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    deep = Image.fromarray(np.asarray(ramp, np.uint16) * 257)
    opaque = Image.merge("LA", (ramp, Image.new("L", ramp.size, 255)))
    for image in (ramp, deep, opaque):
        found = as_rgb(decode_image(encoded(image, "PNG", icc_profile=GREY)))
        assert np.abs(np.asarray(found) - right[..., None]).max() < 2
    # one of other channels says nothing, however often an image is converted
    found = as_rgb(as_rgb(decode_image(encoded(opaque, "PNG", icc_profile=profile(DISPLAY_P3)))))
    assert found.tobytes() == ramp.convert("RGB").tobytes()


def test_inks_are_those_of_the_profile() -> None:
    same = bytes(range(256))
    lightness = bytes(byte for node in range(16) for byte in (255 * (node == 0), 128, 128))  # any ink is black
    table = b"mft1\0\0\0\0\4\3\2\0" + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    inks = profile_of(b"CMYK", WHITE | {b"A2B0": table + 4 * same + lightness + 3 * same}, b"Lab ")
    for ink, right in (((255, 0, 0, 0), 0), ((0, 0, 0, 0), 255)):
        image = Image.new("CMYK", (2, 2), ink)
        found = as_rgb(decode_image(encoded(image, "TIFF", icc_profile=inks)))
        assert np.abs(np.asarray(found).astype(int) - right).max() < 4


def test_a_profile_with_endless_steps_is_left_out() -> None:
    """300 bytes of a file could keep a server busy for minutes."""
    curve = b"curf\0\0\0\0" + struct.pack(">HH", 1, 0) + b"parf\0\0\0\0" + struct.pack(">HH4f", 0, 0, 1.5, 1, 0, 0)
    curves, steps = b"cvst\0\0\0\0" + struct.pack(">HH6I", 3, 3, *[36, len(curve)] * 3) + curve, 4000
    places = struct.pack(">II", 16 + 8 * steps, len(curves)) * steps
    endless = profile_of(
        b"RGB ", WHITE | {b"D2B0": b"mpet\0\0\0\0" + struct.pack(">HHI", 3, 3, steps) + places + curves}
    )
    image = Image.merge("RGB", [Image.linear_gradient("L")] * 3)
    assert as_rgb(decode_image(encoded(image, "PNG", icc_profile=endless))).tobytes() == image.tobytes()


@pytest.mark.parametrize("kept", [profile(), profile(DISPLAY_P3)[:200], b"none"], ids=["sRGB", "broken off", "none"])
def test_a_profile_that_changes_nothing_leaves_all_bytes(kept: bytes) -> None:
    drawn = Image.effect_noise((16, 16), 90)
    for image in (Image.merge("RGB", (drawn, drawn.rotate(90), drawn.rotate(180))), drawn):
        content = encoded(image, "PNG", icc_profile=kept)
        assert as_rgb(decode_image(content)).tobytes() == image.convert("RGB").tobytes()


# --- bounds


def test_a_packed_bmp_has_as_many_parts_as_it_needs() -> None:
    width, height = 512, 300
    rows = b"".join(bytes([2, x % 256]) for x in range(width // 2)) + b"\0\0"
    content = rows * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(content), 0, 0, 256, 0)
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    start = 14 + len(header) + len(palette)
    bmp = b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + header + palette + content
    seen = np.asarray(decode_image(bmp).convert("L"))
    assert (seen == np.arange(width // 2, dtype=np.uint8).repeat(2)).all()


REFUSED = {
    "13,000 pixels a side": (huge_png(13_000, 13_000), "at most 67,108,864 pixels are decoded"),
    "9,000 pixels a side": (huge_png(9_000, 9_000), "at most 67,108,864 pixels are decoded"),
    "a long side": (huge_png(70_000, 2), "65,535 is the longest side"),
    "another kind of file": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not an image that can be read: give PNG, JPEG or WebP",
    ),
    "a large profile": (encoded(Image.new("L", (1, 1)), "TIFF", icc_profile=bytes(2**23 + 1)), "save it without"),
    "nothing": (b"", "not an image"),
    "half of one": (numbered(3, (64, 64))[:-40], "cannot be read as an image"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_out_of_bounds_is_refused_by_every_reader(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(HartError, match=rf"a\.png: .*{message}"):
        open_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(numbered(1))
    read = in_memory(open_source(tmp_path, "all"), ImageTransform(8), "set")
    assert len(read) == 1 and message in read.damaged[0].reason


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_a_lack_of_memory_is_no_fault_of_an_image(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is an image left out of a set for it."""

    def load(_: object) -> None:
        raise error

    path = tmp_path / "red.png"
    path.write_bytes(encoded_image("red"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for read in (
        lambda: open_image(path),
        lambda: require_image("image", Image.open(path)),
        lambda: Sample("red", path.read_bytes()).pixels(ImageTransform(8)),
    ):
        with pytest.raises(type(error)) as raised:
            read()
        assert raised.value is error


def test_a_jpeg_of_many_pixels_is_decoded_at_half_its_size() -> None:
    image = decode_image(encoded(Image.new("L", (8200, 8200), 200), "JPEG"))
    assert image.size == (4100, 4100) and image.getpixel((9, 9)) == 200
    with pytest.raises(HartError, match="make it smaller"):
        decode_image(encoded(Image.new("L", (8200, 8200), 200), "JPEG", progressive=True))
    assert MAX_PIXELS < 8200**2


def test_what_is_no_regular_file_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "good.png").write_bytes(encoded_image("red"))
    (tmp_path / "good.txt").symlink_to("/dev/zero")
    (tmp_path / "sound.png").write_bytes(encoded_image("red"))
    names = ["folder.png", "fifo.png", "zero.png", "gone.png", "good.png", "sound.png"]
    (tmp_path / "set.jsonl").write_text("\n".join(json.dumps({"image": name, "text": "x"}) for name in names))
    for name in names[:4]:
        with pytest.raises(HartError, match=name):
            open_image(tmp_path / name)
    samples, damaged = read_all(open_source(tmp_path, "all", kind="folder"))
    assert [Path(sample.key).name for sample in samples] == ["sound.png"] and len(damaged) == 4
    samples, damaged = read_all(open_source(tmp_path, "all", kind="jsonl"))
    assert len(samples) == 2 and len(damaged) == 4
    for name in ("fifo.png", "zero.png"):
        with pytest.raises(HartError, match=name):
            open_source(tmp_path / name)
