"""The notes on an image: captions, class and weight, from the fields of a record or from files beside the image.

A value of the wrong type, or invalid text, makes the record a damaged one: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hart.data.samples import DamagedSample, damaged_by, text_fault
from hart.errors import HartError
from hart.files import FileError, decode_text, parse_json, text_lines
from hart.strict import shown

NOTE_SUFFIXES = frozenset({"txt", "json", "cls"})
NOTE_LIMIT = 2**24
"""Largest note, or line of JSON, in bytes."""

IMAGE_FIELDS = ("image", "file_name", "image_path", "path", "img", "jpg", "png", "webp")
CAPTION_FIELDS = ("captions", "caption", "text", "txt", "prompt")
LABEL_FIELDS = ("label", "class", "cls")
WEIGHT_FIELD = "weight"
LARGEST_LABEL = 2**63 - 1
LARGEST_WEIGHT = 1e9


@dataclass(frozen=True)
class Columns:
    """Field names of a record; for an empty one, the usual names are tried."""

    image: str = ""
    caption: str = ""
    label: str = ""

    def resolve(self, available: Collection[str], where: str) -> Columns:
        """Return the fields that exist. Raises `HartError` if a named one does not, or if none holds the image."""
        known = ", ".join(sorted(available)) or "none"
        for name in (self.image, self.caption, self.label):
            if name and name not in available:
                raise HartError(f"{where}: no field {name!r}; it has {known}")
        found = self.among(available)
        if not found.image:
            raise HartError(
                f"{where}: no field holds the image: looked for {', '.join(IMAGE_FIELDS)} among {known}; name it with "
                "the option for the image column"
            )
        return found

    def among(self, available: Collection[str]) -> Columns:
        """Return the same with each empty name replaced by the first usual one that is available."""
        named = zip((self.image, self.caption, self.label), (IMAGE_FIELDS, CAPTION_FIELDS, LABEL_FIELDS), strict=True)
        return Columns(*(name or next((one for one in usual if one in available), "") for name, usual in named))


@dataclass(frozen=True, slots=True)
class Note:
    """The notes on an image. label: a class number, or the name of a class."""

    captions: tuple[str, ...] = ()
    label: int | str | None = None
    weight: float = 1.0
    record: Mapping[str, Any] = field(default_factory=dict)


def read_record(record: Mapping[str, Any], columns: Columns) -> Note:
    """Return the note in a record whose fields are known. Raises `DamagedSample` if it makes no sense."""
    given = record.get(columns.caption) if columns.caption else None
    captions = [] if given is None else given if isinstance(given, list | tuple) else [given]
    label = read_label(record.get(columns.label) if columns.label else None)
    return Note(_texts(captions), label, read_weight(record.get(WEIGHT_FIELD)), record)


def read_notes(files: Mapping[str, bytes]) -> Note:
    """Return the note of an image from the files beside it, by suffix (`NOTE_SUFFIXES`).

    `.txt`: captions, one per line. `.json`: an object with the usual fields. `.cls`: a class number or name, which is
    the caption of an image that has no other. Raises `DamagedSample` if they make no sense.
    """
    with damaged_by(FileError):
        record: Any = parse_json(files["json"], "its .json") if "json" in files else {}
        txt, cls = (text_lines(decode_text(files.get(suffix, b""), f"its .{suffix}")) for suffix in ("txt", "cls"))
    if not isinstance(record, dict):
        raise DamagedSample("its .json holds no object")
    note = read_record(record, Columns().among(record))
    label = read_label(" ".join(cls))
    # img2dataset writes the same caption into .txt and .json, line breaks too; repeats within one list are intended:
    # they are sampled more often
    if " ".join(txt) in {" ".join(text_lines(caption)) for caption in note.captions}:
        txt = []
    captions = note.captions + tuple(caption for caption in _texts(txt) if caption not in note.captions)
    named = _texts(cls)  # a class number says nothing about the image as a caption
    return Note(captions or named, note.label if label is None else label, note.weight, record)


def read_label(value: Any) -> int | str | None:
    """Return a class number from 0 to `LARGEST_LABEL`, also one in digits, or a name; None for nothing, blanks and -1,
    with which sets on the Hugging Face hub mark images without a class."""
    if isinstance(value, str):
        name = value.strip()
        if not re.fullmatch(r"[+-]?[0-9]+", name):
            if fault := text_fault(name):
                raise DamagedSample(f"its class {fault}")
            return name or None
        # more digits than any label has, and than Python would convert to a number
        value = int(name) if len(name) < 100 else LARGEST_LABEL + 1
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise DamagedSample(f"its class is {shown(value)}: give a whole number from 0 up, or a name")
    if value == -1:
        return None
    if not 0 <= value <= LARGEST_LABEL:
        raise DamagedSample(f"its class is out of range: give a number from 0 to {LARGEST_LABEL}")
    return value


def read_weight(value: Any) -> float:
    """Return a number from 0 to `LARGEST_WEIGHT`; 1 for nothing. Raises `DamagedSample`."""
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_WEIGHT:
        raise DamagedSample(f"weight is not a number from 0 to {LARGEST_WEIGHT:g}")
    return float(value)


def class_number(label: int | str | None) -> int | None:
    """Return a label that is a number; None for a name or nothing."""
    return label if isinstance(label, int) else None


def number_classes(labels: Sequence[int | str | None]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Return class numbers, and the class names in that order; no names if all labels are numbers."""
    names = {str(label) for label in labels if label is not None}
    if not any(isinstance(label, str) for label in labels):
        return tuple(class_number(label) for label in labels), ()
    place = {name: number for number, name in enumerate(sorted(names))}
    return tuple(None if label is None else place[str(label)] for label in labels), tuple(place)


def _texts(captions: Iterable[Any]) -> tuple[str, ...]:
    """Return stripped texts without blank ones. Raises `DamagedSample` for anything that is not text."""
    texts = []
    for caption in captions:
        if not isinstance(caption, str):
            raise DamagedSample(f"a caption is {shown(caption)}, not text")
        if fault := text_fault(caption):
            raise DamagedSample(f"a caption {fault}")
        texts.append(caption.strip())
    return tuple(text for text in texts if text)
