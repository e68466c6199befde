"""Folders: pictures with captions beside them, or a folder per class (ImageFolder)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_image
from hart.data.samples import (
    IMAGE_SUFFIXES,
    NOTE_SUFFIXES,
    SPLIT_NAMES,
    WHOLE,
    Damage,
    DamagedSample,
    Sample,
    as_weights,
    class_number,
    in_split,
    read_notes,
    require_hash_split,
    split_names,
)
from hart.errors import HartError


def list_pictures(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Every picture below a folder with the suffixes of the notes beside it, in order of path; hidden ones left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        notes: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(files):
            stem, dot, suffix = name.rpartition(".")
            if dot and suffix in NOTE_SUFFIXES:
                notes[stem].append(suffix)
        for name in sorted(files):
            stem, dot, suffix = name.rpartition(".")
            if suffix.lower() in IMAGE_SUFFIXES and dot and not name.startswith("."):
                yield Path(place) / name, tuple(notes[stem])


def split_folder(path: Path, split: str) -> Path | None:
    """The folder of a split, None for a set that is not divided. Raises `HartError` for a split that cannot be had."""
    for name in split_names(split):
        if (path / name).is_dir():
            return path / name
    parts = [name for other in SPLIT_NAMES for name in split_names(other) if (path / name).is_dir()]
    if split == WHOLE and parts:
        raise HartError(f"{path} is divided into folders: name one as the split: {', '.join(parts)}")
    require_hash_split(split, str(path), f"folder '{split}'")
    return None


def pictures_of_split(path: Path, split: str) -> list[tuple[Path, tuple[str, ...]]]:
    """`list_pictures` of the split's folder, or of the share of an undivided folder that the names decide."""
    inside = split_folder(path, split)
    if inside is not None:
        return list(list_pictures(inside))
    return [
        (file, notes)
        for file, notes in list_pictures(path)
        if in_split(file.relative_to(path).with_suffix("").as_posix(), split)
    ]


class FolderSource:
    """`picture.png` with `picture.txt`, `.json` or `.cls` beside it, at any depth."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, split: str) -> None:
        self._root = split_folder(path, split) or path
        self._files: list[tuple[Path, tuple[str, ...]]] = []
        weights = []
        damaged = []
        for file, notes in pictures_of_split(path, split):
            weight = 1.0
            if "json" in notes:
                # only a .json can hold a weight, and the order of a whole epoch needs all of them
                try:
                    weight = read_notes({"json": file.with_suffix(".json").read_bytes()}).weight
                except (DamagedSample, OSError) as error:
                    damaged.append(Damage(str(file), str(error)))
                    continue
            self._files.append((file, notes))
            weights.append(weight)
        self.weights: Tensor = as_weights(weights)
        self.damaged = tuple(damaged)
        self.description = f"folder {path} ({split}): {len(self._files)} pictures"

    def __len__(self) -> int:
        return len(self._files)

    def key(self, row: int) -> str:
        return str(self._files[row][0])

    def read(self, row: int) -> Sample:
        file, suffixes = self._files[row]
        note = read_notes({suffix: _read(file.with_suffix(f".{suffix}")) for suffix in suffixes})
        return Sample(str(file), _read(file), note.captions, class_number(note.label), note.weight, note.record)

    def digest(self) -> str:
        digest = SetDigest("captioned images")
        for file, suffixes in self._files:
            notes: list[str | bytes] = []
            for suffix in suffixes:
                try:
                    notes += [suffix, _read(file.with_suffix(f".{suffix}"))]
                except DamagedSample:
                    notes += [suffix, ABSENT]
            digest.add(file.relative_to(self._root).as_posix(), *notes, mark_image(file))
        return digest.hexdigest()


class ClassFolderSource:
    """`class/picture.png`: the name of the folder is the class; classes are numbered in alphabetical order.

    With a folder per split, the classes of all splits are numbered together, so that a class that one of them
    lacks does not shift the others.
    """

    def __init__(self, path: Path, split: str) -> None:
        inside = split_folder(path, split)
        roots: Sequence[Path] = [path]
        if inside is not None:
            siblings = {name for other in ("train", "val", split) for name in split_names(other)}
            roots = [path / name for name in sorted(siblings) if (path / name).is_dir()]
        names = {folder.name for root in roots for folder in root.iterdir() if _is_class(folder)}
        self.classes = tuple(sorted(names))
        if not self.classes:
            raise HartError(f"{path} ({split}): no folders to take as classes: put the pictures of a class in a folder")
        number: Mapping[str, int] = {name: place for place, name in enumerate(self.classes)}
        self._root = inside or path
        self._files: list[tuple[Path, int]] = []
        damaged = []
        for file, _ in pictures_of_split(path, split):
            place = file.relative_to(self._root).parts
            if len(place) > 1:
                self._files.append((file, number[place[0]]))
            else:
                damaged.append(Damage(str(file), "lies outside the class folders"))
        self.damaged = tuple(damaged)
        self.weights: Tensor = torch.ones(len(self._files))
        self.description = f"class folders {path} ({split}): {len(self)} pictures of {len(self.classes)} classes"

    def __len__(self) -> int:
        return len(self._files)

    def key(self, row: int) -> str:
        return str(self._files[row][0])

    def read(self, row: int) -> Sample:
        file, label = self._files[row]
        return Sample(str(file), _read(file), label=label)

    def digest(self) -> str:
        digest = SetDigest("images by class")
        digest.add(*self.classes)
        for file, label in self._files:
            digest.add(file.relative_to(self._root).as_posix(), str(label), mark_image(file))
        return digest.hexdigest()


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DamagedSample(f"{file.name} cannot be read ({error.strerror})") from None
