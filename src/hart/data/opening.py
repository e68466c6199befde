"""Opens a set of images of any format, named or detected from the path; errors say what was looked for.

To add a format, add its name to `hart.data.kinds`, a file to `readers`, and an entry to `FORMATS`.
"""

from __future__ import annotations

import glob
import itertools
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hart.data.encoded_files import is_encoded_set
from hart.data.kinds import Kind
from hart.data.notes import Columns
from hart.data.readers.folder import (
    ClassFolderReader,
    FolderReader,
    class_or_split,
    list_images,
    loose_images,
    split_folder,
)
from hart.data.readers.hugging_face import PREFIX, HuggingFaceReader, is_saved_dataset
from hart.data.readers.jsonl import JsonlReader
from hart.data.readers.parquet import ParquetStream
from hart.data.readers.tar import TarReader, TarStream, is_remote, local_path
from hart.data.samples import first_reasons
from hart.data.sources import Source, Stream
from hart.data.splits import WHOLE, require_hash_split, split_names
from hart.data.written_sets import require_finished
from hart.errors import HartError, missing_package
from hart.files import AnyPath, list_folder, listed_once, readable_folder, require_regular, user_address
from hart.strict import printable

METADATA = "metadata.jsonl"
"""Name in Hugging Face's ImageFolder, beside the images of each split."""
NAME_KIND = "name one as its kind (--kind, or reading.kind of a recipe)"


@listed_once()
def open_source(
    path: str | Path, split: str | None = "train", *, kind: Kind | None = None, columns: Columns | None = None
) -> Source | Stream:
    """Open the images of one split, listed but not read.

    path: a folder or a file; shards or Parquet files as a pattern, with braces ("train-{000..063}.tar") or stars;
        URLs of shards; "hf:OWNER/NAME" or "hf:OWNER/NAME:CONFIG".
    split: "train", "val" or another that the set has. A folder is divided by folders or file names that contain the
        split as a word; without these, loose images and a single JSONL file are divided by the hash of the image's
        name, and "all" is the whole set. A file or a pattern is taken whole, whatever the split. None holds nothing
        out: it is "train" for a divided set and "all" for an undivided one.
    kind: the format; None detects it from the path.
    columns: field names of JSONL, Parquet and Hugging Face records, if they are unusual.
    Raises `HartError` if the path holds none of these, or more than one.
    """
    name = user_address(path)
    if not name:  # as a path it would be the working directory
        raise HartError("data is empty: give a folder, a file, a pattern of shards, a URL, or hf:OWNER/NAME")
    if split is not None and (not isinstance(split, str) or not split):
        raise HartError(f"split is {split!r}: give train, val, all or another that the set has, or None")
    if kind is not None and kind not in FORMATS:
        raise HartError(f"kind is {kind!r}: give one of {', '.join(FORMATS)}")
    try:
        kind = kind or detect_kind(name, split or "train")
        if columns not in (None, Columns()) and not FORMATS[kind].has_columns:
            raise HartError(f"{printable(name)} is read as {kind}, without columns: leave out those that are named")
        source = FORMATS[kind].open(name, split, columns or Columns())
    except ModuleNotFoundError as error:
        raise missing_package(error.name, "huggingface" if error.name == "datasets" else "data") from None
    except OSError as error:
        raise HartError(f"{printable(error.filename or name)}: cannot be read ({error.strerror})") from None
    if not isinstance(source, Stream) and not len(source):
        reasons = f" ({first_reasons(source.damaged)})" if source.damaged else ""
        raise HartError(
            f"{source.description}, read as {kind}: no image could be read, {len(source.damaged)} damaged{reasons}; "
            f"looked for {_looked_for()}"
        )
    return source


def require_outside(folder: Path, source: Source | Stream) -> None:
    """Raise `HartError` if a folder to write is inside a set that treats all images, or class folders, as its own."""
    if isinstance(source, FolderReader) and folder.resolve().is_relative_to(source.root.resolve()):
        raise HartError(
            f"{folder}: lies in {source.root}, where everything is read as part of the data: choose a folder outside"
        )


@listed_once()
def detect_kind(path: AnyPath, split: str = "train") -> Kind:
    """Return the format of a path. Raises `HartError` if there is none or more than one."""
    name = user_address(path)
    if name.startswith(PREFIX):
        return "huggingface"
    place = Path(name)
    if (what := _found(place)) == "folder":
        return _kind_of_folder(place, split)
    if not what:
        return _kind_of_pattern(name)
    require_regular(place)
    if (kind := _kind_of_suffix(place.name)) is None:
        raise HartError(f"{place}: its name does not tell the format: give .tar, .parquet or .jsonl, or a folder")
    return kind


def _kind_of_folder(path: Path, split: str) -> Kind:
    """Return "folder" (of captioned images) if captions are anywhere; else folders of images are classes."""
    if is_saved_dataset(path):
        return "huggingface"
    found = [kind for kind, form in FORMATS.items() if form.suffix and _files_within(path, form.suffix)]
    if len(found) > 1:
        raise HartError(f"{path} can be read as {' and as '.join(found)}: {NAME_KIND}")
    if found:
        # JSON lines are about images, which may be in folders beside them; metadata always is about those beside it
        has_metadata = found == ["jsonl"] and METADATA in list_folder(path)
        if not has_metadata and (loose := loose_images(path, split, deep=found != ["jsonl"])):
            there = f"*{FORMATS[found[0]].suffix} ({found[0]}) and {FORMATS[loose].looks_like} ({loose})"
            raise HartError(f"{path} holds both {there}: {NAME_KIND}")
        return found[0]
    root = split_folder(path, split) or path
    if root != path and class_or_split(path, {root.name: root}):
        raise HartError(
            f"{path}: {root.name} may be a split, or a class like the folders beside it: give {root}, or name the kind "
            "classes"
        )
    images = list_images(root)
    if (first := next(images, None)) is None:
        said = f"{path} ({split}): no image could be read: looked for {_looked_for()}"
        if is_encoded_set(path):
            said = f"{path}: an encoded set, which holds codes and no images: give the set that it was encoded from"
        raise HartError(said)
    if not (first.notes or first.fault) and (root / METADATA).is_file():
        return "jsonl"
    are_loose = (image.notes or image.path.parent == root for image in itertools.chain([first], images))
    return "folder" if any(are_loose) else "classes"


def _kind_of_pattern(name: str) -> Kind:
    kind = _kind_of_suffix(name)
    if kind == "shards":
        return "stream" if any(is_remote(shard) for shard in expand(name)) else "shards"
    if name.startswith("pipe:"):
        return "stream"
    if is_remote(name):
        raise HartError(f"{name}: only tar shards can be read from the web: download it, or give hf:OWNER/NAME")
    if kind == "parquet" and any(character in name for character in "{*?["):
        return kind
    raise HartError(f"{name} does not exist: give a folder, a file, a pattern of shards, a URL, or hf:OWNER/NAME")


def _kind_of_suffix(name: str) -> Kind | None:
    # the query of a URL follows the name
    suffix = Path(name.split("?", maxsplit=1)[0].lower()).suffix
    return next((kind for kind, form in FORMATS.items() if form.suffix and form.suffix == suffix), None)


def _open_jsonl(name: str, split: str | None, columns: Columns) -> Source:
    path, asked = Path(name), split or "train"
    if not (found := _found(path)):
        raise HartError(f"{path} does not exist: give a .jsonl file or the folder that holds it")
    if found == "file":
        return JsonlReader(path, columns)
    files = _files(path, ".jsonl")
    if not files and (inside := split_folder(path, asked)) is not None and (inside / METADATA).is_file():
        return JsonlReader(inside / METADATA, columns)
    ours = [file for file in files if _has_word(file.name, asked)]
    if len(ours) == 1:
        return JsonlReader(ours[0], columns)
    if len(files) == 1 and not any(_has_word(files[0].name, word) for word in ("train", "val", "test")):
        require_hash_split(asked, str(path), f"file {asked}.jsonl")
        return JsonlReader(files[0], columns, split or WHOLE)
    raise HartError(
        f"{path}: looked for {asked}.jsonl or a single .jsonl, found {', '.join(file.name for file in files) or 'none'}"
    )


def _shards(name: str, split: str | None) -> list[str]:
    """Return the shards. Raises `HartError` for local ones that are missing, or part of an unfinished set."""
    shards = _named(name, split, ".tar")
    paths = [local_path(shard) for shard in shards if not is_remote(shard)]
    if missing := [str(path) for path in paths if not _found(path)]:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise HartError(f"missing shards: {named}: copy them there, or take them out of the pattern")
    for path in paths:
        require_regular(path)
    for folder in {path.parent for path in paths}:
        require_finished(folder)
    return shards


def _open_shards(name: str, split: str | None) -> Source:
    shards = _shards(name, split)
    if remote := [shard for shard in shards if is_remote(shard)]:
        raise HartError(f"{remote[0]} is not on this machine: read it with the kind 'stream'")
    return TarReader([local_path(shard) for shard in shards])


@dataclass(frozen=True)
class Format:
    """open: takes path, split (None: nothing held out) and field names, returns the images. looks_like: what a folder
    of it contains, for people. suffix: of files by which this format is detected; empty if it is detected otherwise.
    has_columns: whether its fields may have unusual names.
    """

    open: Callable[[str, str | None, Columns], Source | Stream]
    looks_like: str = ""
    suffix: str = ""
    has_columns: bool = False


FORMATS: Mapping[Kind, Format] = {
    "shards": Format(lambda name, split, columns: _open_shards(name, split), "*.tar", ".tar"),
    "stream": Format(lambda name, split, columns: TarStream(_shards(name, split))),
    "parquet": Format(
        lambda name, split, columns: ParquetStream(list(map(Path, _named(name, split, ".parquet"))), columns),
        "*.parquet or data/*.parquet",
        ".parquet",
        has_columns=True,
    ),
    "jsonl": Format(_open_jsonl, "*.jsonl", ".jsonl", has_columns=True),
    "huggingface": Format(
        lambda name, split, columns: HuggingFaceReader(name, split or "train", columns),
        "state.json or dataset_dict.json",
        has_columns=True,
    ),
    "folder": Format(lambda name, split, columns: FolderReader(name, split), "images with captions beside them"),
    "classes": Format(lambda name, split, columns: ClassFolderReader(name, split), "images in a folder per class"),
}


def _looked_for() -> str:
    return ", ".join(f"{form.looks_like} ({kind})" for kind, form in FORMATS.items() if form.looks_like)


def _named(name: str, split: str | None, suffix: str) -> list[str]:
    """Return the files of a split in a folder, or those that a path or a pattern names."""
    path, split = Path(name), split or "train"
    if (found := _found(path)) == "file":
        return [name]
    if found == "folder":
        files = _files_within(path, suffix)
        if not files:
            raise HartError(f"{path}: no {suffix} files: put them there, or give another path")
        ours = [str(file) for file in files if _has_word(file.name, split)]
        if not ours:
            raise HartError(
                f"{path} has {suffix[1:]} files but none for the split '{split}': name them {split}-0000{suffix} "
                f"and so on, or give {path / ('*' + suffix)}, which takes them all"
            )
        return ours
    names: list[str] = []
    for pattern in expand(name):
        has_star = any(character in pattern for character in "*?[") and not is_remote(pattern)
        local = str(local_path(pattern))
        matches = sorted(glob.glob(local)) if has_star else [pattern]  # noqa: PTH207 - it may be absolute
        if not matches:
            raise HartError(f"{pattern}: no file matches: check the pattern")
        names += matches
    return names


def _files_within(folder: Path, suffix: str) -> list[Path]:
    """Return files with a suffix; Parquet files may be in `data/`, as in data sets of the hub."""
    data = folder / "data"
    inside = suffix == ".parquet" and list_folder(folder).get(data.name, False)
    return _files(folder, suffix) or (_files(data, suffix) if inside else [])


def _files(folder: Path, suffix: str) -> list[Path]:
    """Return files with a suffix, in upper or lower case, sorted by name."""
    names = (name for name, is_folder in list_folder(folder).items() if not is_folder)
    return sorted(folder / name for name in names if name.lower().endswith(suffix))


def _has_word(name: str, split: str) -> bool:
    return not {own.lower() for own in split_names(split)}.isdisjoint(re.split(r"[^0-9a-z]+", name.lower()))


def _found(path: Path) -> Literal["", "folder", "file"]:
    """Return what is at a path, which may also be an address or a pattern that is invalid as a path. Raises `FileError`
    for a folder that may not be read."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return ""
    if is_folder:
        readable_folder(path)
    return "folder" if is_folder else "file"


MAX_NAMES = 100_000
MAX_BRACES = 100
MAX_DIGITS = 100
RANGE = re.compile(r"\{(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.-?([0-9]+))?\}")


def expand(pattern: str) -> tuple[str, ...]:
    """Return the names that a pattern stands for, in order; "::" joins several patterns.

    As in a shell: {a,b}, {1..9}, {001..100}, {1..9..2}, nested too; other braces stay.
    Raises `HartError` for more than `MAX_NAMES`.
    """
    short = pattern if len(pattern) < 200 else f"{pattern[:200]}…"
    if pattern.count("{") > MAX_BRACES:
        raise HartError(f"{short}: has more than {MAX_BRACES} braces: write it with fewer")
    # the library creates all numbers of a range before the first name
    lengths = (
        abs(int(high) - int(low)) // (int(step or 1) or 1) if len(low + high + step) < MAX_DIGITS else MAX_NAMES
        for low, high, step in RANGE.findall(pattern)
    )
    names: tuple[str, ...] = ()
    if all(length < MAX_NAMES for length in lengths):
        every = itertools.chain.from_iterable(map(_names, pattern.split("::")))
        names = tuple(itertools.islice(every, MAX_NAMES + 1))
    if not 0 < len(names) <= MAX_NAMES:
        raise HartError(f"{short}: stands for more than {MAX_NAMES:,} files, the most that can be named")
    return names


def _names(pattern: str) -> Iterator[str]:
    if "{" not in pattern:
        return iter((pattern,))
    from braceexpand import braceexpand

    try:
        return braceexpand(pattern, escape=False)
    except ValueError:  # unbalanced
        return iter((pattern,))
