"""Open a set of pictures of any format: the kind is named, or told from the path, and what was looked for is said."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from hart.data.notes import Columns
from hart.data.patterns import expand
from hart.data.readers.folder import ClassFolderSource, FolderSource, list_pictures, split_folder
from hart.data.readers.hugging_face import PREFIX, HuggingFaceSource, is_saved_dataset
from hart.data.readers.jsonl import JsonlSource
from hart.data.readers.parquet import ParquetStream
from hart.data.readers.tar import TarSource
from hart.data.readers.web_stream import WebDatasetStream, is_remote, local_path, missing_shards
from hart.data.samples import shown
from hart.data.sources import Source, Stream
from hart.data.splits import SPLIT_NAMES, WHOLE, require_hash_split, split_names
from hart.data.written_sets import require_finished
from hart.errors import HartError, missing_package
from hart.files import require_regular

Kind = Literal["folder", "classes", "jsonl", "shards", "stream", "parquet", "huggingface"]
"""folder: pictures with captions beside them. classes: a folder per class. jsonl: a picture on each line.
shards: local WebDataset shards, read at random. stream: WebDataset shards one after the other, local or from URLs.
parquet: files with an image column. huggingface: what the library `datasets` loads."""
KINDS: tuple[Kind, ...] = get_args(Kind)

_LOOKED_FOR = (
    "*.tar (shards), *.parquet or data/*.parquet (parquet), *.jsonl (jsonl), state.json or dataset_dict.json "
    "(huggingface), pictures with captions beside them (folder), pictures in a folder per class (classes)"
)


def open_source(
    path: str | Path, split: str = "train", *, kind: Kind | None = None, columns: Columns | None = None
) -> Source | Stream:
    """The pictures of one split, listed but not read.

    path: a folder or a file; shards or Parquet files as a pattern, with braces ("train-{000..063}.tar") or stars;
        URLs of shards; "hf:OWNER/NAME" or "hf:OWNER/NAME:CONFIG".
    split: "train", "val" or another that the set has. A folder is divided by folders or file names that have the split
        as a word, and without these, for loose pictures and one JSONL file, by the hash of the picture's name; "all"
        is the whole of such a set. A file or a pattern is taken whole for whichever split.
    kind: the format; told from the path where it is None.
    columns: fields of JSONL, Parquet and Hugging Face records, where they have unusual names.
    Raises `HartError` when the path holds none of these, or more than one.
    """
    name, columns = str(path), columns or Columns()
    if kind is not None and kind not in KINDS:
        raise HartError(f"kind is {kind!r}: give one of {', '.join(KINDS)}")
    with _readable(name):
        kind = kind or detect_kind(name, split)
        source = _open(name, split, kind, columns)
    if not isinstance(source, Stream) and not len(source):
        reasons = "; ".join(f"{damage.key}: {damage.reason}" for damage in source.damaged[:3])
        raise HartError(
            f"{shown(name)} ({split}), read as {kind}: no picture could be read, {len(source.damaged)} damaged"
            f"{f' ({reasons})' if reasons else ''}; looked for {_LOOKED_FOR}"
        )
    return source


def whole_of(path: str | Path, kind: Kind | None = None) -> str:
    """The split that leaves nothing out for evaluation: "all" of an undivided set, "train" of one that is divided."""
    name, place = str(path), Path(path)
    kind = kind or detect_kind(name)
    if kind in {"folder", "classes"}:
        divided = any((place / own).is_dir() for names in SPLIT_NAMES.values() for own in names)
    else:
        divided = kind != "jsonl" or not place.is_dir() or _is_divided(_files(place, ".jsonl"))
    return "train" if divided else WHOLE


def detect_kind(name: str, split: str = "train") -> Kind:
    """The format of a path. Raises `HartError` when there is none or more than one."""
    if name.startswith(PREFIX):
        return "huggingface"
    path = Path(name)
    if (what := _found(path)) != "folder":
        if not what:
            return _kind_of_pattern(name)
        require_regular(path)
        kind = _kind_of_suffix(path.name)
        if kind is None:
            raise HartError(f"{path}: the format is not told by its name: give .tar, .parquet or .jsonl, or a folder")
        return kind
    if is_saved_dataset(path):
        return "huggingface"
    found: list[Kind] = []
    if _files(path, ".tar"):
        found.append("shards")
    if _parquet_files(path):
        found.append("parquet")
    if _files(path, ".jsonl"):
        found.append("jsonl")
    if len(found) > 1:
        raise HartError(f"{path} can be read as {' and as '.join(found)}: name one as its kind")
    return found[0] if found else _kind_of_folder(path, split)


def _open(name: str, split: str, kind: Kind, columns: Columns) -> Source | Stream:
    path = Path(name)
    match kind:
        case "folder":
            return FolderSource(_folder(path), split)
        case "classes":
            return ClassFolderSource(_folder(path), split)
        case "jsonl":
            return _open_jsonl(path, split, columns)
        case "shards":
            shards = _shards(name, split)
            if remote := [shard for shard in shards if is_remote(shard)]:
                raise HartError(f"{remote[0]} is not on this machine: read it with the kind 'stream'")
            paths = [local_path(shard) for shard in shards]
            _require_whole(paths)
            return TarSource(paths)
        case "stream":
            shards = _shards(name, split)
            _require_whole([local_path(shard) for shard in shards if not is_remote(shard)])
            return WebDatasetStream(shards)
        case "parquet":
            return ParquetStream(_parquet(name, split), columns)
        case "huggingface":
            return HuggingFaceSource(name, split, columns)


def _kind_of_pattern(name: str) -> Kind:
    suffix = _kind_of_suffix(name)
    if suffix == "shards":
        return "stream" if any(is_remote(shard) for shard in expand(name)) else "shards"
    if name.startswith("pipe:"):
        return "stream"
    if suffix == "parquet" and not is_remote(name) and _is_pattern(name):
        return suffix
    if is_remote(name):
        raise HartError(f"{name}: of web addresses only tar shards are read; download it, or give hf:OWNER/NAME")
    raise HartError(f"{name} does not exist: give a folder, a file, a pattern of shards, a URL, or hf:OWNER/NAME")


def _kind_of_suffix(name: str) -> Kind | None:
    # the query of a URL comes after the name
    name = name.split("?", maxsplit=1)[0].lower()
    suffixes: dict[str, Kind] = {".tar": "shards", ".parquet": "parquet", ".jsonl": "jsonl"}
    return next((kind for suffix, kind in suffixes.items() if name.endswith(suffix)), None)


def _kind_of_folder(path: Path, split: str) -> Kind:
    """Captions anywhere make a folder of captioned pictures; without them, folders of pictures are classes."""
    root = split_folder(path, split) or path
    seen = False
    for file in list_pictures(root):
        if file.notes or file.path.parent == root:
            return "folder"
        seen = True
    if not seen:
        raise HartError(f"{path} ({split}): no picture could be read: looked for {_LOOKED_FOR}")
    return "classes"


def _folder(path: Path) -> Path:
    if _found(path) != "folder":
        raise HartError(f"{path} is no folder: give the folder that holds the pictures")
    return path


def _open_jsonl(path: Path, split: str, columns: Columns) -> JsonlSource:
    if not (found := _found(path)):
        raise HartError(f"{path} does not exist: give a .jsonl file or the folder that holds it")
    if found == "file":
        return JsonlSource(path, columns)
    files = _files(path, ".jsonl")
    ours = [file for file in files if _has_word(file.name, split)]
    if len(ours) == 1:
        return JsonlSource(ours[0], columns)
    if len(files) == 1 and not _is_divided(files):
        require_hash_split(split, str(path), f"file {split}.jsonl")
        return JsonlSource(files[0], columns, split)
    raise HartError(
        f"{path}: looked for {split}.jsonl or a single .jsonl, found {', '.join(file.name for file in files) or 'none'}"
    )


def _is_divided(files: Sequence[Path]) -> bool:
    return any(_has_word(file.name, split) for file in files for split in ("train", "val", "test"))


def _shards(name: str, split: str) -> Sequence[str]:
    path = Path(name)
    if (found := _found(path)) == "folder":
        return [str(file) for file in _of_split(_files(path, ".tar"), path, split, "tar")]
    if found == "file":
        return [name]
    shards = expand(name)
    if len(shards) == 1 and _has_star(name) and not is_remote(name):
        shards = tuple(sorted(glob.glob(name)))  # noqa: PTH207 - the pattern may be absolute
        if not shards:
            raise HartError(f"{name}: no file matches: check the pattern")
    return shards


def _parquet(name: str, split: str) -> Sequence[Path]:
    path = Path(name)
    if (found := _found(path)) == "folder":
        return _of_split(_parquet_files(path), path, split, "parquet")
    if found == "file":
        return [path]
    return [Path(file) for pattern in expand(name) for file in (sorted(glob.glob(pattern)) or [pattern])]  # noqa: PTH207


def _of_split(files: Sequence[Path], path: Path, split: str, suffix: str) -> Sequence[Path]:
    ours = [file for file in files if _has_word(file.name, split)]
    if not ours and files:
        raise HartError(
            f"{path} has {suffix} files but none for the split '{split}': name them {split}-0000.{suffix} and so on"
        )
    if not ours:
        raise HartError(f"{path}: no .{suffix} files: put them there, or give another path")
    return ours


def _parquet_files(path: Path) -> Sequence[Path]:
    """Where data sets of the hub have them: in the folder, or in `data/`."""
    data = path / "data"
    return _files(path, ".parquet") or (_files(data, ".parquet") if data.is_dir() else [])


def _files(folder: Path, suffix: str) -> list[Path]:
    """Those with a suffix, in upper or lower case, in order of name."""
    with os.scandir(folder) as entries:  # without a path for each of what may be a million images
        names = [entry.name for entry in entries]
    return sorted(folder / name for name in names if name.lower().endswith(suffix) and not name.startswith("."))


def _require_whole(shards: Sequence[Path]) -> None:
    """Raises `HartError` for shards that are not there, or of a set that is not finished."""
    if missing := [str(shard) for shard in shards if not _found(shard)]:
        raise HartError(missing_shards(missing))
    for shard in shards:
        require_regular(shard)
    for folder in {shard.parent for shard in shards}:
        require_finished(folder)


def _has_word(name: str, split: str) -> bool:
    return not set(split_names(split)).isdisjoint(re.split(r"[^0-9A-Za-z]+", name))


def _found(path: Path) -> Literal["", "folder", "file"]:
    """What lies at a path, which may also be an address or a pattern that no file system takes for a path."""
    try:
        return "folder" if stat.S_ISDIR(path.stat().st_mode) else "file"
    except PermissionError:
        raise
    except (OSError, ValueError):
        return ""


def _is_pattern(name: str) -> bool:
    return "{" in name or _has_star(name)


def _has_star(name: str) -> bool:
    return any(character in name for character in "*?[")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What stands in the way of reading a set, in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "huggingface" if error.name == "datasets" else "data"
        raise missing_package(error.name, extra) from None
    except OSError as error:
        raise HartError(f"{shown(error.filename or name)}: cannot be read ({error.strerror})") from None
