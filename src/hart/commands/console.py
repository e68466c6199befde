"""What the commands share: progress on stderr, folders to write to, new names for files, paths on stdout."""

from __future__ import annotations

import gc
import itertools
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from hart.commands.locks import LOCK_FILE, locked
from hart.errors import AdapterWarning, HartError, PromptWarning, Stopped, missing_package
from hart.files import can_be_written, folder_if_used, require_writable
from hart.stopping import SIGNALS, end_at_the_next, handled
from hart.strict import clipped

if TYPE_CHECKING:
    from rich.progress import Progress

    from hart.generation.outputs import ScalePreview

SLUG_LENGTH = 40
JOB_FILE = "job.json"
"""File in a job's folder, written by `hart.commands.jobs.job`; other commands write nothing there."""
Report = Callable[[int, int | None, str], None]
"""Called with (steps done, total steps or None if unknown, current activity)."""


@contextmanager
def progress(first: str) -> Iterator[Report]:
    """Show a bar on stderr that disappears at the end; nothing if stderr is not a terminal that can move back.

    first: the activity until the first report.
    """
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    # names of files and models are not markup
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    # what others print on a terminal appears above the bar, and what is for a pipe must reach the pipe
    redirect = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as bar:
        task = bar.add_task(first, total=None)
        _bars.append(bar)
        try:
            yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
        finally:
            _bars.remove(bar)


_bars: list[Progress] = []
"""The bars that `progress` shows at present."""


def say(line: str | bytes | Path, *, err: bool = False, to: TextIO | None = None) -> None:
    """Print one line on standard output (err: error), or `to`, above the bar if there is one. `typer.echo` alone
    bypasses rich's replacements of the streams, and would write behind the bar."""
    for bar in _bars:
        bar.stop()
    typer.echo(line, err=err, file=to)
    for bar in _bars:
        bar.start()


@contextmanager
def importing() -> Iterator[None]:
    """For imports of large packages: they make no garbage, and collecting it takes a tenth of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def scale_reporter(report: Report) -> Callable[[ScalePreview], None]:
    """Return a `callback_on_scale` that reports scales and batches and decodes nothing."""

    def callback(preview: ScalePreview) -> None:
        done, total = preview.batch * preview.scales + preview.k + 1, preview.batches * preview.scales
        what = f"batch {preview.batch + 1}/{preview.batches}, scale {preview.k + 1}/{preview.scales}"
        report(done, total, what)

    return callback


def require_writable_file(path: Path) -> None:
    """Do `require_writable` for a file; an existing one will be replaced."""
    if path.is_dir():
        raise HartError(f"{path}: is a folder: give a file")
    require_writable(path.parent)


def is_image_file(out: Path) -> bool:
    """Return whether --out names the file of one image, not a folder for any number."""
    if not out.suffix or out.is_dir():
        return False
    from hart.generation.metadata import is_image_name

    return is_image_name(out)


def require_output(out: Path, *, single: bool) -> None:
    """Do `require_writable` for --out: a folder, or the name of one new image. single: whether only one is written."""
    if not is_image_file(out):
        require_writable(out)
        return
    if not single:
        raise HartError(f"--out {out}: names one image, and this command writes more: give a folder")
    if out.suffix.lower() != ".png":
        raise HartError(f"--out {out}: images are written as PNG: give {out.with_suffix('.png').name}, or a folder")
    if os.path.lexists(out):
        raise HartError(f"--out {out}: already exists, and nothing is overwritten: choose another name")
    require_writable(out.parent)


@contextmanager
def owned(folder: Path, what: str, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold a folder for this process alone, see `hart.commands.locks.locked`; it is created if need be, and removed
    again if nothing was written there. Raises `HartError` if it cannot be written to."""
    with ExitStack() as stack:
        with can_be_written(folder):
            stack.enter_context(folder_if_used(folder))
        require_writable(folder)
        with locked(folder, what, name) as has_lock:
            if not has_lock:
                note(f"{folder}: this drive has no locks: make sure that nothing else writes there")
            yield


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing optional package into an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(error.name, extra) from None


_listener: ContextVar[Callable[[str], object]] = ContextVar(
    "listener", default=lambda message: say(f"note: {message}", err=True)
)


def note(message: str) -> None:
    """Print one line on stderr, or pass it to the listener of `notes_to`."""
    _listener.get()(" ".join(message.split()))


@contextmanager
def notes_to(listener: Callable[[str], object]) -> Iterator[None]:
    """Pass notes to `listener`, as in a child process, whose parent knows what was said before."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def hint_at_quotes(prompts: Sequence[str]) -> None:
    """Print a note if the shell has probably split one prompt into several."""
    if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
        # typographic quotes are letters to a shell
        short = clipped(" ".join(prompts).strip("“”„«»\u2018\u2019"), 40)
        note(f'these are {len(prompts)} prompts of one word each; to generate them as one: hart generate "{short}"')


def hint_at_files(prompts: Sequence[str]) -> None:
    """Print a note if a prompt is the name of a file, as when the shell has expanded a pattern to several files."""
    for prompt in filter(os.path.isfile, prompts):
        note(f'"{clipped(prompt, 40)}" is a file, but is used as a prompt: give files one by one, by their options')


@contextmanager
def prompt_notes() -> Iterator[None]:
    """Turn warnings about prompts and adapters into notes, each printed once."""
    said, ours = set[str](), (PromptWarning, AdapterWarning)
    with warnings.catch_warnings():
        for kind in ours:
            warnings.simplefilter("always", kind)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if not issubclass(category, ours):
                others(message, category, *place, **options)
            elif str(message) not in said:
                said.add(str(message))
                note(str(message))

        warnings.showwarning = show
        yield


@contextmanager
def says_when_stopped(line: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the block in order, then the command with this line. A second one
    ends it at once."""
    signals = [number for number in SIGNALS if number != signal.SIGINT]

    def stop(number: int, frame: object) -> None:
        end_at_the_next(signals)
        raise Stopped("", number)

    try:
        with handled(signals, stop):
            yield
    except (KeyboardInterrupt, Stopped) as end:
        raise Stopped(line(), end.signal if isinstance(end, Stopped) else signal.SIGINT) from None


def print_path(path: Path, remark: str = "", to: TextIO | None = None) -> None:
    """Print one line: a file that was written, and a remark. to: by default standard output."""
    line = f"{path}{remark}"
    # names that are not UTF-8, or not in the stream's encoding, are printed as their raw bytes
    say(os.fsencode(line) if os.name == "posix" or not _is_written_by(to or sys.stdout, line) else line, to=to)


def _is_written_by(stream: TextIO | None, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def slug(*texts: str) -> str:
    """Return a short piece of a file name: letters and digits of any script, emoji by name, all else as single dashes.
    If several texts are too long together, each gets an equal share."""
    from hart.text_encoder.emoji import named_emoji  # its package imports PyTorch

    spaced = ("".join(c if c.isalnum() else " " for c in named_emoji(text).lower()) for text in texts)
    pieces = ["-".join(words.split()) for words in spaced]
    if len("-".join(pieces)) > SLUG_LENGTH:
        share = (SLUG_LENGTH + 1) // len(pieces) - 1  # beside a dash
        pieces = [piece[:share].strip("-") for piece in pieces]
    return "-".join(filter(None, pieces)) or "image"


NUMBERED = re.compile(r"([0-9]{3,9})-.*\.png")


class NumberedFiles:
    """PNG files of one command, numbered on from those in the folder, so that names sort in the order of writing. The
    first file creates the folder.

    Other commands may write into the same folder meanwhile: a taken name is skipped. Alternatively, a single file may
    have a given name.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """folder: or FILE.png for one file. count: how many files are to come; numbers are as wide as the last one.
        Raises `HartError` like `require_output`, and for the folder of a job."""
        require_output(folder, single=count == 1)
        if (folder / JOB_FILE).exists():
            raise HartError(f"--out {folder}: belongs to the job that its {JOB_FILE} describes: choose another folder")
        self._file = folder if is_image_file(folder) else None
        found = (NUMBERED.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ()))
        first = max((int(match[1]) + 1 for match in found if match is not None), default=0)
        self._folder = folder
        self._width = max(3, len(str(first + count - 1)))
        self._numbers = itertools.count(first)

    def write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Let `save` write the next file, with `name` after its number; `save` raises `FileExistsError` for a taken
        name.

        Returns the path that was written.
        """
        if self._file is not None:
            save(self._file)
            return self._file
        return write_new((self._folder / f"{number:0{self._width}}-{name}.png" for number in self._numbers), save)


def write_new(paths: Iterator[Path], save: Callable[[Path], None]) -> Path:
    """Let `save` write the first of `paths` that is free, and return it."""
    while True:
        path = next(paths)
        try:
            save(path)
        except FileExistsError:
            if not os.path.lexists(path):  # the folder is gone
                raise
        else:
            return path
