"""One stored image with its notes, or why it cannot be used: the common form of every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from hart.data.digests import mark_file
from hart.data.images import MAX_FILE, decode_image
from hart.data.kinds import Condition
from hart.data.transforms import ImageTransform
from hart.errors import HartError, lacks_memory
from hart.files import FileError, open_regular, read_bytes
from hart.strict import clipped, reason

T = TypeVar("T")


class DamagedSample(Exception):
    """An image that cannot be used. It is skipped and counted, never fatal by itself; the text is the reason."""


@dataclass(frozen=True)
class Damage:
    """An image that was skipped: its name and why."""

    key: str
    reason: str

    def __str__(self) -> str:
        # if a file cannot be opened, the reason begins with its name
        return f"{self.key}: {self.reason.removeprefix(f'{self.key}: ')}"


@dataclass(frozen=True)
class Sample:
    """One image as stored.

    key: where it is stored, for messages. image: the encoded file. label: class number. weight: how often it is
    sampled, relative to others. record: the `.json` beside it, or its line or row.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    label: int | None = None
    weight: float = 1.0
    record: Mapping[str, Any] = field(default_factory=dict)

    def pixels(self, transform: ImageTransform, rng: np.random.Generator | None = None) -> Tensor:
        """Return (3, height, width) uint8. Raises `DamagedSample` if the image does not decode."""
        with damaged_by(ValueError, OSError, said="the image cannot be decoded ({})"):
            return transform(decode_image(self.image), rng)

    def require(self, condition: Condition) -> None:
        """Raise `DamagedSample` unless the image comes with what the model is conditioned on."""
        if condition == "caption" and not self.captions:
            raise DamagedSample(f"no caption{self._among_fields()}")
        if condition == "label" and self.label is None:
            raise DamagedSample(f"no class number{self._among_fields()}")

    def _among_fields(self) -> str:
        """Return which fields of the record were searched, since the right one may have an unusual name."""
        return f" in the fields {clipped(', '.join(sorted(map(str, self.record))))}" if self.record else ""


@contextmanager
def damaged_by(*kinds: type[Exception], said: str = "{}") -> Iterator[None]:
    """Turn these errors into `DamagedSample`, except a lack of memory. said: its text, with a placeholder for the
    reason."""
    try:
        yield
    except kinds as error:
        if lacks_memory(error):
            raise
        raise DamagedSample(said.format(reason(error))) from None


def made_or_damaged(make: Callable[[], T] | str) -> T:
    """Return the result of a function. Raises `DamagedSample` if a fault is given in its place."""
    if isinstance(make, str):
        raise DamagedSample(make)
    return make()


def decoded(
    samples: Iterable[Sample | Damage], transform: ImageTransform, damaged: list[Damage], condition: Condition = "none"
) -> Iterator[tuple[Sample, Tensor]]:
    """Yield each sound sample with its pixels (3, height, width) uint8; the others are added to `damaged`.

    transform: not a random one.
    """
    for sample in samples:
        if isinstance(sample, Damage):
            damaged.append(sample)
            continue
        try:
            sample.require(condition)
            yield sample, sample.pixels(transform)
        except DamagedSample as error:
            damaged.append(Damage(sample.key, str(error)))


def require_mostly_sound(
    damaged: Sequence[Damage], total: int, max_damaged: float, where: str, option: str = "", least: int = 0
) -> None:
    """Raise `HartError` with the first reasons if more than the share `max_damaged` of `total` images is damaged.

    option: sets `max_damaged`; empty if it is fixed. least: the share is of at least this many images.
    """
    if len(damaged) > max_damaged * max(total, least):
        raise HartError(
            f"{where}: more than {100 * max_damaged:g}% of the images are damaged, {len(damaged)} of {total} "
            f"({first_reasons(damaged)}); fix the set{f', or allow more with {option}' if option else ''}"
        )


def first_reasons(damaged: Sequence[Damage]) -> str:
    return "; ".join(map(str, damaged[:3]))


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An encoded image: a whole file, or `size` bytes of it from `start` on. A call reads them, or raises
    `DamagedSample`."""

    path: Path
    start: int = 0
    size: int | None = None

    def __call__(self) -> bytes:
        with damaged_by(FileError, OSError):
            if self.size is None:
                return read_bytes(self.path, MAX_FILE)
            with open_regular(self.path) as file:
                file.seek(self.start)
                return file.read(self.size)

    def mark(self) -> bytes:
        """Return its mark, see `hart.data.digests`, which may need only part of it."""
        return mark_file(self.path, self.start, self.size)


def image_of_field(value: Any, folder: Path | None) -> Callable[[], bytes]:
    """Return what reads the encoded image of a record: bytes, {"bytes", "path"} as in Hugging Face, or a path below
    `folder`. Raises `DamagedSample`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return partial(bytes, value)
    if not isinstance(value, str) or not value:
        raise DamagedSample("no image")
    if "://" in value:
        raise DamagedSample("its image is a web address; download it first")
    return ImageFile(Path(value) if folder is None else folder / value)


def text_fault(text: str) -> str:
    """Return why a caption, a class or a file name is not valid text; empty if it is."""
    if "\0" in text:
        return "has a null byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    return ""
