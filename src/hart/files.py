"""Reading files within limits, writing them whole or not at all, and the cache folder.

Problems that a user can fix are a `FileError`. Only regular files are read: a FIFO would block, a device never ends.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, BinaryIO

from hart.errors import HartError

# fmt: off
__all__ = [
    "FileError", "all_or_nothing", "atomic_write", "default_cache", "parse_json", "read_bytes", "read_json",
    "read_text", "read_toml", "readable_folder", "text_lines", "user_path", "write_json", "write_text",
]
# fmt: on

MEBIBYTE = 2**20
TEXT_LIMIT = 64 * MEBIBYTE
"""Largest JSON, TOML or text file in bytes."""
STANDARD_INPUT = "standard input"
"""Its name in messages."""
PARTIAL = ".partial"
"""Suffix of files that are still being written."""


AnyPath = str | os.PathLike[str]
"""A path as written by a person, see `user_path`."""


class FileError(HartError):
    """A file that is missing, not regular, too large, or not of its format; the message names it."""


def default_cache() -> Path:
    """Return the folder `hart` in the platform's cache, for files that can be downloaded again. Raises `FileError` for
    a user without a home folder."""
    named, below = {
        "win32": (os.environ.get("LOCALAPPDATA"), Path("AppData", "Local")),
        "darwin": (None, Path("Library", "Caches")),
    }.get(sys.platform, (os.environ.get("XDG_CACHE_HOME"), Path(".cache")))
    if named and Path(named).is_absolute():  # the XDG specification says to ignore relative paths
        return Path(named) / "hart"
    try:
        return Path.home() / below / "hart"
    except RuntimeError:
        raise FileError("no folder for downloaded files, since this user has no home: set HOME") from None


def user_path(name: AnyPath) -> Path:
    """Return a path written by a person, with ~ as the home folder. Raises `FileError`."""
    if not (address := user_address(name)):
        raise FileError(f"{name!r}: give a path")
    return Path(address)


def user_address(address: AnyPath) -> str:
    """Like `user_path`, but for text that may also be a URL, a pattern, or empty. Raises `FileError`."""
    if not isinstance(address, str | os.PathLike):
        raise FileError(f"{address!r}: give a path or an address, as text")
    return os.path.expanduser(os.fspath(address))  # noqa: PTH111 - a path would lose slashes


def readable_folder(path: Path) -> Path:
    """Return a folder. Raises `FileError` if it does not exist, or its files cannot be listed and read."""
    if not path.is_dir():
        raise FileError(f"{path}: no such folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise FileError(f"{path}: no permission to read it")
    return path


_listings: ContextVar[dict[Path, Mapping[str, bool]] | None] = ContextVar("listings", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """In a block or a decorated function, let `list_folder` list each folder only once: a million images take a second,
    on a network many."""
    known = _listings.get()
    token = _listings.set({} if known is None else known)
    try:
        yield
    finally:
        _listings.reset(token)


def list_folder(folder: Path) -> Mapping[str, bool]:
    """Return the non-hidden names in a folder, True for folders; links are followed. Raises `OSError`."""
    known = _listings.get()
    if known is not None and folder in known:
        return known[folder]
    with os.scandir(folder) as entries:  # without a `Path` for each
        names = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    if known is not None:
        known[folder] = names
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def require_own_folder(folder: Path, own: str = "") -> None:
    """Raise `FileError` if a folder holds anything but hidden files and names that fully match the pattern `own`: to
    write a whole folder, it must be empty, new, or written by the same program before."""
    names = list_folder(readable_folder(folder)) if folder.exists() else ()
    if os.path.realpath(folder) == os.path.realpath(os.path.expanduser("~")):  # noqa: PTH111  # a home may not be known
        raise FileError(f"{folder}: is your home folder: give an empty or a new folder")
    foreign = sorted(name for name in names if not re.fullmatch(own, name))
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise FileError(f"{folder}: holds other files ({', '.join(foreign[:3])}{more}): give an empty or a new folder")


def require_writable(path: Path) -> None:
    """Raise `FileError` before any work is done if nothing can be written to a folder. Creates no folder, so that
    nothing is left after an error: for a missing folder, its nearest existing parent is tested, which may be a broken
    link, such as to a drive that is not mounted."""
    with can_be_written(path):
        existing = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
        with TemporaryFile(dir=existing):
            pass


@contextmanager
def can_be_written(path: Path) -> Iterator[None]:
    """Turn system errors in a block into errors of writing to the folder `path`. Raises `FileError`."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot write there ({error.strerror}): choose another folder") from None


def is_file_name(name: str) -> bool:
    """Return whether a name can, on any system, only denote a file directly in the folder it is looked up in."""
    plain = "\0" not in name and {PurePosixPath(name).name, PureWindowsPath(name).name} == {name}
    return plain and name not in ("", ".", "..")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; links are followed. Raises `FileError` for anything else."""
    try:
        # without waiting: opening a FIFO would block until somebody writes to it
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if os.path.isdir(path):  # noqa: PTH112 - Windows opens no folder; `Path.is_dir` raises for too long names
            raise FileError(f"{path}: is a folder: give a file") from None
        raise FileError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise FileError(f"{path}: {'is a folder' if stat.S_ISDIR(kind) else 'not a regular file'}: give a file")
    return os.fdopen(handle, "rb")


def require_regular(path: Path) -> None:
    """Raise `FileError` unless `path` can be opened as a regular file; for libraries that open files themselves."""
    open_regular(path).close()


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises `FileError`."""
    with open_regular(path) as file:
        return _content(file, str(path), limit)


def _content(file: IO[bytes], where: str, limit: int) -> bytes:
    try:
        content = file.read(limit + 1)
    except OSError as error:
        raise FileError(f"{where}: cannot be read ({error.strerror})") from None
    if len(content) > limit:
        raise FileError(f"{where}: is larger than {limit / MEBIBYTE:g} MiB, the most that is read of such a file")
    return content


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """Return the text of a UTF-8 file, with or without byte order mark. Raises `FileError`."""
    return decode_text(read_bytes(path, limit), str(path))


def read_standard_input() -> str:
    """Return all UTF-8 text on standard input. Raises `FileError`."""
    if sys.stdin is None:
        raise FileError(f"{STANDARD_INPUT}: is closed")
    return decode_text(_content(sys.stdin.buffer, STANDARD_INPUT, TEXT_LIMIT), STANDARD_INPUT)


def text_lines(text: str) -> list[str]:
    """Return non-blank lines, stripped. Only what editors treat as a line break counts: `str.splitlines` also splits at
    a form feed, or at U+2028, which text from web pages contains within lines."""
    return [line.strip() for line in re.split(r"\r\n?|\n", text) if line.strip()]


def decode_text(content: bytes, where: str) -> str:
    """Decode UTF-8 text, with or without byte order mark. Raises `FileError`, which begins with `where`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        raise FileError(f"{where}: is not UTF-8 text ({place}): save it as UTF-8") from None


def read_json(path: Path, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `FileError` if it holds anything else."""
    values = parse_json(read_bytes(path, limit), str(path))
    if not isinstance(values, dict):
        raise FileError(f"{path}: does not hold a JSON object")
    return values


def parse_json(content: bytes, where: str) -> Any:
    """Return any JSON value, with or without byte order mark. Raises `FileError`, which begins with `where`."""
    return _parsed(json.loads, decode_text(content, where), where, "JSON")


def read_toml(path: Path, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """Return the table in a TOML file. Raises `FileError`."""
    values: dict[str, Any] = _parsed(tomllib.loads, read_text(path, limit), str(path), "TOML")
    return values


def _parsed(parse: Callable[[str], Any], text: str, where: str, kind: str) -> Any:
    try:
        return parse(text)
    except (ValueError, OverflowError) as error:  # also raised for a number of thousands of digits
        raise FileError(f"{where}: is not {kind} ({error})") from None
    except RecursionError:
        raise FileError(f"{where}: is nested too deeply") from None


def atomic_write(path: Path, write: Callable[[BinaryIO], Any], *, overwrite: bool = True) -> None:
    """Let `write` fill a file that appears as `path` once it is complete; see `whole_file`.

    write: gets the open file; its `name` is a path, for libraries that open it themselves.
    """
    with whole_file(path, overwrite=overwrite) as temporary, temporary.open("r+b") as file:
        write(file)


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a new empty file beside `path`; it, or what a library puts in its place, is flushed to disk and renamed when
    the block ends. Missing folders are created.

    Readers see the old file or the whole new one. The temporary file has a random name, so that programs writing the
    same file do not interfere. If the block fails, the old file stays, nothing is left beside it, and the error is
    raised again; a system error, such as a full disk, as an `OSError` that names `path`.
    overwrite: if False, raises `FileExistsError` if `path` exists, even if another program creates it meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        # exclusive, so as not to write through a file or link that somebody put there
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries create files that only the owner can read
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            rename_to_new(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch's writer raises a RuntimeError for a failed write, with the cause as its context
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.filename in (None, str(temporary)):
            said = cause.strerror or str(cause)
            if sys.platform == "win32" and isinstance(cause, PermissionError) and path.exists():
                said += "; is it open in another program?"  # then it cannot be replaced
            raise OSError(cause.errno, said, str(path)) from None
        raise
    flush_folder(path.parent)


@contextmanager
def folder_if_used(folder: Path) -> Iterator[None]:
    """Give a folder, created with its parents if need be; those created are removed if the block leaves it empty."""
    made = [each for each in (folder.absolute(), *folder.absolute().parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # it is not empty
            for each in made:
                each.rmdir()


@contextmanager
def all_or_nothing(folder: Path, last: str) -> Iterator[Path]:
    """Give a folder to write into; its files appear in `folder` when the block ends, or none if anything fails.

    last: the file that appears last, by which readers know that all are there. Nothing is overwritten: raises
    `FileExistsError`. System errors name the path in `folder`.
    """
    there: list[Path] = []
    with ExitStack() as made:
        made.enter_context(folder_if_used(folder))
        try:
            with TemporaryDirectory(dir=folder, prefix=".", suffix=PARTIAL) as name:
                written = Path(name)
                try:
                    yield written
                except OSError as error:
                    if error.filename is None or not Path(error.filename).is_relative_to(written):
                        raise
                    named = folder / Path(error.filename).relative_to(written)
                    raise OSError(error.errno, error.strerror, str(named)) from None
                # file by file: Windows cannot replace a folder, not even an empty one
                files = (file for file in written.rglob("*") if file.is_file())
                for file in sorted(files, key=lambda file: (file == written / last, file)):
                    target = folder / file.relative_to(written)
                    made.enter_context(folder_if_used(target.parent))
                    rename_to_new(file, target)
                    there.append(target)
            for place in {target.parent for target in there}:
                flush_folder(place)
        except BaseException:
            for target in there:
                with suppress(OSError):
                    target.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; see `atomic_write`."""
    atomic_write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, values: Any) -> None:
    """Write a JSON value for people to read; see `atomic_write`."""
    # lone surrogates, which stand for non-UTF-8 bytes in a file name, cannot be encoded; with a backslash they are
    # valid JSON
    text = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    atomic_write(path, lambda file: file.write(text))


def flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, if the system can: Windows does not open folders, and some network
    drives cannot flush them."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def rename_to_new(temporary: Path, path: Path) -> None:
    """Rename without overwriting anything. Raises `FileExistsError`."""
    # a link fails if its name exists, on every system
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no links on this drive: reserve the name
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(path)
    else:
        temporary.unlink()
