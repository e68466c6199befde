"""The only way to open an image file, in bounded memory whatever the file claims.

Only regular files are opened, in formats that hold pixels and start no other program, of at most `MAX_PIXELS` pixels
(200 MB as RGB). A larger baseline JPEG, of up to four times as many, is decoded at half its size. `as_rgb` gives the
image as a viewer shows it: upright, on white, with 16 bits scaled to 8.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageCms

from hart.errors import HartError, lacks_memory
from hart.files import read_bytes
from hart.strict import reason

MAX_PIXELS = 2**26
MAX_SIDE = 2**16 - 1
MAX_GREY = 2**16 - 1
MAX_FILE = 8 * MAX_PIXELS
"""Largest image file in bytes: `MAX_PIXELS` with four channels of 16 bits."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
SUFFIXES = frozenset(
    ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "j2k", "ppm", "pgm", "pbm"]
)
"""Suffixes of files of these formats, in lower case."""

MAX_SCANS = 200
"""Most scans of a JPEG. Each covers the whole image, and some take 30 bytes; programs write about ten."""

MAX_EXIF_PARTS = 1000
"""Most EXIF parts of a JPEG. The library adds each to a copy of those before; cameras write one, and 20 MB have room
for 320 full ones."""

MAX_PROFILES = 16
"""Most colour profiles of a PNG, which should have one. Each may be a megabyte compressed to 500 bytes."""

CONVERTED = ("L", "RGB", "CMYK")
"""Modes whose colours a profile defines."""

MAX_PROFILE = 2**23
"""Largest colour profile in bytes; profiles for printing, with tables, have a few million."""

MAX_READS, BYTES_A_READ = 2**17, 2**10
"""How often the library may read from a file, plus once per this many bytes: it reads several times for each part of
the file, and most programs write parts of 8 kB. 20 MB have room for millions of empty ones."""

_ORIENTATION = 0x0112
_SCANS = tuple(b"\xff\xda\0" + bytes([6 + 2 * colours]) for colours in range(5))
"""First bytes of a scan; fewer would also match the videos that phones append to photographs."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Maps EXIF orientation to the turn that makes the image upright; 1 is upright."""
_MAY_TURN = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation", b"XML:com.adobe.xmp\0\1")
"""Marks of an orientation in a PNG, which may come after its pixels or be compressed, and in a TIFF, beside its own
tag, by which the library turns it."""


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Open and decode an image file. content: of the file, if already read. Raises `HartError`, naming the file."""
    content = read_bytes(path, MAX_FILE) if content is None else content
    try:
        return decode_image(content)
    except HartError as error:
        raise HartError(f"{path}: {error}") from None


def decode_image(content: bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an encoded image of any of `formats`; of an animation the first frame. Raises `HartError`."""
    with readable():
        image = _recognised(content, formats)
        _keep_bounds(image, max_pixels)
        if image.format in {"JPEG", "MPO"} and sum(map(content.count, _SCANS)) > MAX_SCANS:
            raise HartError(f"has more than {MAX_SCANS} scans: save it again")
        image.load()
        if len(image.info.get("icc_profile") or b"") > MAX_PROFILE:
            raise HartError(f"has a colour profile of more than {MAX_PROFILE:,} bytes: save it without")
        if image.mode in {"I", "F"} and MAX_GREY < (largest := np.nanmax(np.asarray(image), initial=0)) < np.inf:
            raise HartError(f"has grey values up to {largest:g}: store it in 8 or 16 bits, up to {MAX_GREY:,}")
    return image


def upright_size(content: bytes) -> tuple[int, int]:
    """Return width and height of an encoded image as `as_rgb` turns it; decodes only a PNG or TIFF that may be turned.
    Raises `HartError`."""
    with readable():
        image = _recognised(content, FORMATS)
        if image.format in {"PNG", "TIFF"}:
            return upright(decode_image(content)).size if any(mark in content for mark in _MAY_TURN) else image.size
        turned = _orientation(image) in range(5, 9)
    return (image.height, image.width) if turned else image.size


@contextmanager
def readable() -> Iterator[None]:
    """Turn whatever decoders raise for damaged files into a `HartError`, except a lack of memory."""
    try:
        yield
    except HartError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        why = f"it may be damaged or cut off ({reason(error)}): save it again"
        raise HartError(f"cannot be read as an image; {why}") from None


def upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF or else XMP orientation, which is then removed so that it is not turned again."""
    image.load()  # some formats store their orientation after their pixels
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    for place in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        image.info.pop(place, None)
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB: upright, in sRGB, transparency on white, more than 8 bits scaled rather than clipped.

    Colours are converted by the image's ICC profile, if that is intact and has its channels. Grey of 32 bits or floats
    is taken as 0 to 255, as 0 to 65,535 if values are above 255, and as 0 to 1 if floats are not above 1.
    """
    image = upright(image)
    profile = image.info.get("icc_profile")
    if image.mode == "P" and image.has_transparency_data:  # converting straight to RGB would warn
        image = image.convert("RGBA")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode[0] in "IF":
        image = _grey_of_8_bits(image)
    elif image.mode not in (*CONVERTED, "LAB"):
        image = image.convert("L" if image.mode[:2] in ("LA", "La") else "RGB")
    transform = _to_srgb(profile, image.mode)
    image = image.convert("RGB") if transform is None else transform.apply(image)
    if alpha is not None:
        layer, image = image, Image.new("RGB", image.size, "white")
        image.paste(layer, mask=alpha)
    image.info.pop("icc_profile", None)  # no longer describes these colours
    return image


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from an ICC profile; None for one that changes nothing, or that viewers ignore as well: if
    it is damaged, has other channels, or defines its own steps ("mpet"), as many as its author likes."""
    srgb = ImageCms.createProfile("sRGB")
    if mode == "LAB":  # defines its colours itself; Pillow converts it in no other way
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, mode, "RGB")
    if not profile or b"mpet" in profile or mode not in CONVERTED:
        return None
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), srgb, mode, "RGB")
    except ImageCms.PyCMSError:
        return None
    # sRGB has many names, and its profiles differ by rounding
    ramp = Image.linear_gradient("L")
    colours = Image.merge("RGB", (ramp, ramp.rotate(90), Image.radial_gradient("L"))).convert(mode)
    change = ImageChops.difference(transform.apply(colours), colours.convert("RGB"))
    return transform if np.asarray(change).max() > 2 else None


def opacity(image: Image.Image) -> Image.Image | None:
    """Return mode L, upright as in `as_rgb`: 0 where an image is transparent; None if it is opaque everywhere."""
    image = upright(image)
    if image.mode[0] in "IF" or not image.has_transparency_data:
        return None
    alpha = (image if image.mode == "RGBA" else image.convert("RGBA")).getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


class _Counted(io.BytesIO):
    """A file in memory. Reading from it too often raises `HartError`: it has more parts than an image needs."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left = MAX_READS + len(content) // BYTES_A_READ

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise HartError("has too many parts: save it again")
        return super().read(size)


def _recognised(content: bytes, formats: Sequence[str]) -> Image.Image:
    """Return an image whose pixels are not decoded yet. `Image.open` has its own limit and warns below it."""
    if content.count(b"Exif\0\0") > MAX_EXIF_PARTS:
        raise HartError(f"has more than {MAX_EXIF_PARTS:,} parts of EXIF: save it again")
    if content.count(b"iCCP") > MAX_PROFILES:
        raise HartError(f"has more than {MAX_PROFILES} colour profiles: save it again")
    Image.init()
    for name in formats:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or (accepts is not None and accepts(content[:16]) is not True):
            continue
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # what plugins raise for another format
            # the library reads a packed BMP byte by byte
            return factory((io.BytesIO if name == "BMP" else _Counted)(content), "")
    raise HartError("not an image that can be read: give PNG, JPEG or WebP")


def _keep_bounds(image: Image.Image, max_pixels: int) -> None:
    """Raise `HartError` for an image that is too large; make a large JPEG decode at half its size."""
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise HartError(f"is {width} x {height} pixels: {MAX_SIDE:,} is the longest side that is decoded")
    # a progressive JPEG is held in memory at full size before it is reduced
    if width * height > max_pixels and image.format in {"JPEG", "MPO"} and "progressive" not in image.info:
        image.draft(image.mode, ((width + 1) // 2, (height + 1) // 2))
        width, height = image.size
    if width * height > max_pixels:
        raise HartError(f"is {width} x {height}: make it smaller, at most {max_pixels:,} pixels are decoded")


def _grey_of_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    np.nan_to_num(values, copy=False, posinf=MAX_GREY, neginf=0)
    largest = values.max()
    # also 16 bits in these formats, however dark
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}) or largest > 255:
        scale = 255 / MAX_GREY
    else:
        scale = 255 if image.mode == "F" and largest <= 1 else 1
    if isinstance(see_through := image.info.get("transparency"), int):
        values[values == see_through] = 255 / scale
    values *= scale
    return Image.fromarray(np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if none can be read. It may also be in XMP or text chunks."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken tags make the library raise all kinds of errors
        return 1
