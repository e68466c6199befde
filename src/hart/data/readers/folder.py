"""Folders: images with captions beside them, or a folder per class (ImageFolder)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Literal

from hart.data.images import SUFFIXES
from hart.data.notes import NOTE_LIMIT, NOTE_SUFFIXES, Note, read_notes
from hart.data.samples import DamagedSample, ImageFile, damaged_by, text_fault
from hart.data.sources import Listed, Located, Source
from hart.data.splits import SPLIT_NAMES, WHOLE, divide, require_hash_split, split_names
from hart.errors import HartError
from hart.files import FileError, list_folder, read_bytes, readable_folder
from hart.strict import counted, printable

_NUMBERED = re.compile(r"(train|val|test)[^a-z]+", re.IGNORECASE)
"""A folder of COCO, such as train2017: with others like it, the set is divided in an unknown way."""


@dataclass(frozen=True, slots=True)
class FolderImage:
    """An image in a folder; a small object, since there may be millions.

    notes: names of the files beside it, one of each kind. fault: why it cannot be used; empty for none.
    """

    path: Path
    notes: tuple[str, ...] = ()
    fault: str = ""

    def read_notes(self, kinds: Collection[str] = NOTE_SUFFIXES) -> Note:
        """Return the notes of some kinds. Raises `DamagedSample`."""
        files = {kind: self.path.with_name(name) for name in self.notes if (kind := _parts(name)[1]) in kinds}
        with damaged_by(FileError):
            return read_notes({kind: read_bytes(file, NOTE_LIMIT) for kind, file in files.items()}) if files else Note()


def list_images(folder: Path) -> Iterator[FolderImage]:
    """Yield every image below a folder, sorted by path; hidden files and folders are left out.

    Links to folders are followed, unless they lead back to a folder that contains them. A folder that cannot be listed
    is yielded in place of its images, with its fault.
    """
    # a stack: folders can be nested deeper than function calls
    waiting: list[tuple[Path, frozenset[tuple[int, int]], str]] = [(folder, frozenset(), "")]
    while waiting:
        place, above, fault = waiting.pop()
        try:
            status = place.stat()
            within = above | {(status.st_dev, status.st_ino)}
            if within == above:
                continue
            names = list_folder(place)
        except OSError as error:
            yield FolderImage(place, fault=f"this folder cannot be listed ({error.strerror})")
            continue
        yield from _images_among(place, sorted(name for name, is_folder in names.items() if not is_folder), fault)
        folders = sorted((name for name, is_folder in names.items() if is_folder), reverse=True)
        waiting += [(place / name, within, fault or text_fault(name)) for name in folders]


def split_folder(path: Path, split: str, *, classes: bool = False) -> Path | None:
    """Return the folder of a split; None if the set is not divided. Raises `HartError` if the split does not exist.

    classes: whether these are class folders, see `class_or_split`.
    """
    found = split_folders(path, split, classes=classes)
    for name in split_names(split):
        if name in found:
            return found[name]
    if found:
        parts = ", ".join(folder.name for folder in found.values())
        missing = "" if split == WHOLE else f" and has none for '{split}': make it, or"
        raise HartError(f"{path} is divided into folders{missing or ':'} name one as the split: {parts}")
    require_hash_split(split, str(path), f"folder '{split}'")
    named = (_NUMBERED.fullmatch(name) for name, is_folder in list_folder(path).items() if is_folder and not classes)
    numbered = {match[1].lower(): match[0] for match in named if match}
    if len(numbered) > 1:
        both = " and ".join(numbered.values())
        raise HartError(f"{path}: {both} look like splits: give one of them as the data, or name the kind classes")
    return None


def split_folders(path: Path, split: str, *, classes: bool = False) -> dict[str, Path]:
    """Return the folders of train, val and `split` in a set, under any of their names, by name in lower case.

    Train or VAL are splits if there are two of them; one alone may be a class. classes: as for `split_folder`.
    """
    names = [name for other in (*SPLIT_NAMES, split) for name in split_names(other)]
    found = {name: path / name for name in names if (path / name).is_dir()}
    spelled = [(name, path / each) for name in names for each in (name.capitalize(), name.upper())]
    others = {} if found else {name: folder for name, folder in spelled if folder.is_dir()}
    return others if len(others) > 1 else {} if classes and class_or_split(path, found) else found


def class_or_split(path: Path, found: Mapping[str, Path]) -> bool:
    """Return whether a lone split folder may be a class: it and others beside it hold nothing but images."""

    def is_plain(folder: Path) -> bool:
        suffixes = {_parts(name)[1] for name, is_folder in list_folder(folder).items() if not is_folder}
        return not suffixes.isdisjoint(SUFFIXES) and suffixes.isdisjoint(NOTE_SUFFIXES)

    known = {"test", *found, *itertools.chain.from_iterable(SPLIT_NAMES.values())}
    folders = [name for name, is_folder in list_folder(path).items() if is_folder]
    beside = [name for name in folders if name.lower() not in known]
    if len(found) != 1 or len(folders) - len(beside) != 1:
        return False
    # those beside it first, usually none: a split may hold millions of images
    return any(is_plain(path / name) for name in beside) and all(map(is_plain, found.values()))


def loose_images(path: Path, split: str, *, deep: bool) -> Literal["folder", "classes"] | None:
    """Return how the images could be read in a folder that also holds files of another format.

    Only images with captions count, or images in at least two folders, since a preview may lie beside shards. Folders
    are searched one level deep, or not at all without `deep`; those of the splits always are.
    """
    splits = sorted(split_folders(path, split).values())
    inside = itertools.chain.from_iterable(map(_folders_in, (path, *splits))) if deep else ()
    classes = 0
    for place in (path, *inside):
        with suppress(OSError):  # a folder that cannot be listed is an error only if it is read
            names = [name for name, is_folder in list_folder(place).items() if not is_folder]
            images = list(_images_among(place, names, ""))
            if any(image.notes for image in images):
                return "folder"
            classes += bool(images) and place not in (path, *splits)
    return "classes" if classes > 1 else None


class FolderReader(Source):
    """`image.png` with `image.txt`, `.json` or `.cls` beside it, at any depth."""

    title = "folder"

    def __init__(self, name: str, split: str | None, classes: tuple[str, ...] = ()) -> None:
        """name: of the folder. split: None holds nothing out."""
        path = readable_folder(Path(name))
        self.remark = f" of {counted(len(classes), 'class')}" if classes else ""
        inside = split_folder(path, split or "train", classes=bool(classes))
        split = split or (WHOLE if inside is None else "train")
        self.root = inside or path
        self._files = list(list_images(self.root))
        if inside is None:
            names = [file.path.relative_to(path).with_suffix("").as_posix() for file in self._files]
            ours, note = divide(names, split, str(path))
            self._files = list(compress(self._files, ours))
            self.remark += note
        super().__init__(f"{self.title} {path} ({split})", classes=classes)

    def records(self) -> Iterator[tuple[FolderImage, Callable[[], Listed] | str]]:
        for file in self._files:
            yield file, file.fault or partial(self.facts, file)
        del self._files

    def facts(self, file: FolderImage) -> Listed:
        # only a .json can hold a weight, and ordering an epoch needs all weights
        return Listed(weight=file.read_notes({"json"}).weight)

    def name(self, place: FolderImage) -> str:
        return printable(str(place.path))

    def read_record(self, place: FolderImage) -> Located:
        return place.read_notes(), ImageFile(place.path)


class ClassFolderReader(FolderReader):
    """`class/image.png`: the folder is the class; classes are numbered in alphabetical order.

    With a folder per split, the classes of train and val are numbered together, so that a class missing from one split
    does not shift the others; those that only another split has come after them.
    """

    title = "class folders"

    def __init__(self, name: str, split: str | None) -> None:
        path = readable_folder(Path(name))
        # training's classes first: further ones of a split do not shift them
        of_training, every = (
            split_folders(path, each, classes=True).values() or [path] for each in ("train", split or "train")
        )
        classes = tuple(dict.fromkeys([*sorted(_classes(of_training)), *sorted(_classes(every))]))
        if not classes:
            raise HartError(f"{path} ({split}): no class folders: put the images of each class in a folder")
        self._numbers = {each: number for number, each in enumerate(classes)}
        super().__init__(name, split, classes)

    def facts(self, file: FolderImage) -> Listed:
        place = file.path.relative_to(self.root).parts
        if len(place) < 2 or place[0] not in self._numbers:
            raise DamagedSample("lies outside the class folders")
        return Listed(self._numbers[place[0]])

    def read_record(self, place: FolderImage) -> Located:
        return Note(), ImageFile(place.path)


def _classes(roots: Iterable[Path]) -> set[str]:
    """Return the names of folders within some others, if valid text; without links that lead back and what macOS adds
    to archives, which would shift the numbers of others."""
    folders = [(root, root / name) for root in roots for name, is_folder in list_folder(root).items() if is_folder]
    found = (folder for root, folder in folders if not root.resolve().is_relative_to(folder.resolve()))
    return {folder.name for folder in found if not text_fault(folder.name)} - {"__MACOSX"}


def _folders_in(path: Path) -> Iterator[Path]:
    """Yield folders sorted by name; none if they cannot be listed."""
    with suppress(OSError):
        yield from sorted(path / name for name, is_folder in list_folder(path).items() if is_folder)


def _images_among(place: Path, names: Sequence[str], fault: str) -> Iterator[FolderImage]:
    """Yield the images among the files of a folder, with their notes; suffixes in upper or lower case.

    fault: of the folder's own name.
    """
    notes: dict[str, dict[str, list[str]]] = {}
    for name in names:
        stem, suffix = _parts(name)
        if suffix in NOTE_SUFFIXES:
            notes.setdefault(stem, {}).setdefault(suffix, []).append(name)
    for name in names:
        stem, suffix = _parts(name)
        if suffix not in SUFFIXES:
            continue
        own = notes.get(stem, {})
        reason = f"its name {named}" if (named := fault or text_fault(name)) else ""
        if twice := [files for files in own.values() if len(files) > 1]:
            reason = f"two notes of one kind are beside it: {', '.join(twice[0])}"
        yield FolderImage(place / name, tuple(files[0] for files in own.values()), reason)


def _parts(name: str) -> tuple[str, str]:
    """ "a.b.PNG" as ("a.b", "png"); no suffix without a dot."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, suffix.lower()) if dot else (name, "")
