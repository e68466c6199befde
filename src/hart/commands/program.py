"""The command line of `hart`, or of a project built on it: sub-commands, and how errors look.

Exit codes: 0 done; 2 bad input or too little memory, one line on stderr; 130 Ctrl-C; 143 SIGTERM and 129 a closed
terminal, for commands that handle them.

The work continues if nobody reads the output any more (`hart train ... | head -1`).
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import io
import os
import stat
import sys
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from hart.errors import HartError, Stopped
from hart.files import user_path
from hart.stopping import second_ends_at_once

BAD_INPUT, INTERRUPTED = 2, 130

OUT_OF_MEMORY = (
    "out of memory: generate fewer images together (--batch-size 1, a smaller -n), choose --dtype bfloat16, "
    "--device cpu or a model that generates smaller images; in training, a smaller trainer.batch_size"
)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}
"""What glibc's allocator reads when a process begins: environment variables, and their numbers in `mallopt`."""
KEPT_MEMORY = 2**30
WIDEST = 200
"""Longest summary of a command in a list, in characters."""


Absent = tuple[Callable[[], Any], str | None]
"""A command that is not imported yet: what makes it, and its summary; None if it must be made to know it."""


STANDARD_STREAM = "-"
"""The file name that stands for standard input or output, as for other programs."""
ONE_READER = (
    "- stands for standard input, which only hart generate --prompts-file reads: give another value (./- for a file "
    "called -)"
)


class HartCommand(TyperCommand):
    """A command that accepts no blank text: coming from an unset variable it is not intended, and as a path it would be
    the working directory. Nor does it accept "-", which would be a file with that name."""

    MAY_BE_EMPTY = frozenset({"negative_prompt"})
    """Options for which an empty text means none, also for an image that had one."""
    READS_STANDARD_INPUT = frozenset({"prompts_file"})
    ONE_FILE = frozenset({"like", "mask", "prompts_file", "style"})
    """Options that are refused a second time, since both files would seem to be read. Of other options the last one
    counts,
    as in other programs: a command may be repeated with more options appended."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        params: list[Any] = [] if given.get("help") else self.get_params(ctx)
        for param in params:
            value = given.get(param.name)
            values = value if isinstance(value, list | tuple) else [value]
            blank = any(isinstance(text, str) and not text.strip() for text in values)
            if blank and (value or param.name not in self.MAY_BE_EMPTY):
                raise typer.BadParameter("the text is empty: give a value", ctx=ctx, param=param)
            if STANDARD_STREAM in values and param.name not in self.READS_STANDARD_INPUT:
                raise typer.BadParameter(ONE_READER, ctx=ctx, param=param)
            if param.name in self.ONE_FILE and order.count(param) > 1:
                raise typer.BadParameter("takes one file, and is given more than once", ctx=ctx, param=param)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            Path.cwd()
        except FileNotFoundError:  # MKL would end the process at its first matrix product, wherever its files are
            raise HartError("the working directory no longer exists: change to another") from None
        if os.environ.get("HF_ENDPOINT"):  # with an invalid address, transformers and others cannot be imported
            from hart.hub import hub_address

            hub_address()
        return super().invoke(ctx)


class Program(typer.Typer):
    """A command line whose commands are `HartCommand`s. In paths, ~ is the home folder, even if the shell leaves it, as
    in `--out=~/x`, which would otherwise create a folder of that name."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = HartCommand, **settings: Any) -> Any:
        added = super().command(name, cls=cls, **settings)
        return lambda function: added(_from_home(function))


def _from_home(function: Callable[..., Any]) -> Callable[..., Any]:
    def path(value: Any) -> Any:
        if isinstance(value, list):
            return [path(each) for each in value]
        return user_path(value) if isinstance(value, Path) else value

    @wraps(function)
    def run(**given: Any) -> Any:
        return function(**{name: path(value) for name, value in given.items()})

    return run


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are used, not when they are listed."""

    absent: Mapping[str, Absent] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        listed = {name: TyperCommand(name=name, help=said) for name, (_, said) in self.absent.items()}
        self.commands = {**listed, **self.commands}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        make, _ = self.absent.get(cmd_name, (None, None))
        return super().get_command(ctx, cmd_name) if make is None else make()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with whole first sentences; for one that cannot be made, why."""
        found = []
        for name in self.list_commands(ctx):
            try:
                known = self.commands[name] if self.commands[name].help else self.get_command(ctx, name)
                found.append((name, known.get_short_help_str(WIDEST)))
            except HartError as error:
                found.append((name, str(error)))
        if found:
            with formatter.section("Commands"):
                formatter.write_dl(found)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self.absent = {}  # a process that completes names runs none of them
        return super().shell_complete(ctx, incomplete)


class HartGroup(LazyGroup):
    """A command group that reports bad input in one line, without traceback; without any, it lists its commands."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **options: Any) -> Any:
        quiet = {**options, "standalone_mode": False}
        if not standalone_mode:
            return super().main(*arguments, **quiet)
        try:
            code = super().main(*arguments, **quiet)
        except Stopped as stop:
            if str(stop):
                typer.echo(str(stop), err=True)
            sys.exit(128 + stop.signal)
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        except HartError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno == errno.ENOMEM:
                _fail(OUT_OF_MEMORY)
            _fail(f"{error.filename}: {error.strerror or error}" if error.filename else str(error))
        except Exception as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # no arguments: the error is the whole --help
                typer.echo(error, err=True)
                sys.exit(BAD_INPUT)
            from pydantic import ValidationError  # takes longer to import than --help

            from hart.strict import explain

            param, cause = getattr(error, "param", None), error.__cause__
            if param is not None and isinstance(cause, ValidationError):  # typer reads values with it
                _fail(explain(cause, object, "/".join(param.opts)))
            # errors of the argument parser format themselves
            say = getattr(error, "format_message", None)
            if say is not None:
                _fail(f"{str(say()).rstrip('.')}{_help(error)}; see --help")
            from hart.devices import is_out_of_memory  # loads PyTorch, which --help does not wait for

            if is_out_of_memory(error):
                _fail(OUT_OF_MEMORY)
            raise  # a fault of the program
        sys.exit(code if isinstance(code, int) else 0)


def _help(error: Any) -> str:
    """Return what to do about an error of the argument parser: the usage if a part is missing, and how to give a text
    that begins like an option."""
    # by name, since the classes are in the package click or in typer's own copy of it
    kind = type(error).__name__
    if kind == "MissingParameter" and error.ctx is not None:
        return f"; usage: {error.ctx.command_path} {' '.join(error.ctx.command.collect_usage_pieces(error.ctx))}"
    # for a text such as "-5 apples" it has the first two characters
    if kind == "NoSuchOption" and (" " in error.option_name or not error.option_name.startswith("--")):
        return "; a text that begins with - goes last, after --"
    return ""


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(BAD_INPUT)


def lazy_group(commands: Mapping[str, Absent], kind: type[LazyGroup] = LazyGroup, **settings: Any) -> typer.Typer:
    """Return a group of commands that are made when they are used. settings: of `typer.Typer`."""
    group = type(kind.__name__, (kind,), {"absent": commands})
    return Program(cls=group, no_args_is_help=True, rich_markup_mode=None, **settings)


def new_program(commands: Mapping[str, tuple[str, str]] | None = None) -> typer.Typer:
    """Return a command line that reports bad input in one line.

    commands: "module:variable" of a function or of a `typer.Typer`, and a summary for the list; they are imported when
        they are used. Others can be added as to any `typer.Typer`.
    """
    absent = {name: (partial(_imported, name, place), said) for name, (place, said) in (commands or {}).items()}
    short = {"help_option_names": ["-h", "--help"]}
    return lazy_group(absent, HartGroup, pretty_exceptions_enable=False, context_settings=short)


def single_command(name: str, function: Callable[..., Any], description: str | None = None) -> Any:
    """Return a function as a command of a group. description: by default its docstring."""
    program = Program(add_completion=False, rich_markup_mode=None)
    program.command(name, help=description)(function)
    return typer.main.get_command(program)


def _imported(name: str, place: str) -> Any:
    found = resolve_name(place)
    if not isinstance(found, typer.Typer):
        return single_command(name, found)
    group = typer.main.get_command(found)
    group.name = name
    return group


def run_program(app: typer.Typer, name: str) -> None:
    """Run a `new_program` with this process's arguments, then exit. name: of the console script."""
    outlive_readers()
    keep_freed_memory()
    # otherwise the interpreter collects garbage in all of PyTorch before it ends, for a third of a second
    atexit.register(gc.freeze)
    with second_ends_at_once():
        app(prog_name=name)


def keep_freed_memory() -> None:
    """Let this process and those that it starts keep freed memory for their next needs, up to 1 GiB at the end.

    By default glibc returns blocks above 32 MB as soon as they are free, and requests each anew, which comes page by
    page and filled with zeros: 250,000 page faults per image for the 0.7B model. Variables that are already set stay as
    they are, and other C libraries, which have their own rules, are left alone. So is glibc before 2.35, which refuses
    the first, while the second alone would only stop it from raising its own limit up to those 32 MB.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        return
    for variable, option in ALLOCATOR.items():
        if variable not in os.environ:
            if not library.mallopt(option, KEPT_MEMORY):
                return
            os.environ[variable] = str(KEPT_MEMORY)


CLOSED = frozenset({errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET}) | (
    {errno.EINVAL} if sys.platform == "win32" else frozenset()
)
"""Errors of writing to a pipe without a reader; a terminal that was closed gives EIO."""


def outlive_readers() -> None:
    """Let writing to the standard streams succeed after their readers are gone; nothing is then written."""
    # there is nowhere to report a failure of standard error
    for name, failures in (("stdout", "standard output"), ("stderr", None)):
        stream = getattr(sys, name)
        # not if it is closed, a Windows console, or an object that a test or a notebook put there
        if isinstance(stream, io.TextIOWrapper) and isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            stream.flush()
            file: Any = _Lasting(stream.fileno(), failures)
            lasting = io.TextIOWrapper(
                io.BufferedWriter(file) if isinstance(stream.buffer, io.BufferedWriter) else file,
                stream.encoding,
                # a name that the terminal's encoding lacks is no reason to end
                "backslashreplace" if stream.errors == "strict" else stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)


class _Lasting(io.FileIO):
    """A file that was already open, and stays open."""

    def __init__(self, handle: int, failures: str | None) -> None:
        """failures: name of the stream in errors other than missing readers, raised once; None raises none."""
        super().__init__(handle, "wb", closefd=False)
        self._failures = failures

    def write(self, content: Any) -> Any:
        """Take all of the content, even if nobody reads it any more."""
        if not len(content):  # libraries test in this way what a stream takes
            return 0
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError as error:
            # a closed terminal fails like a broken disk
            is_terminal = stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            is_closed = error.errno in CLOSED or (is_terminal and error.errno == errno.EIO)
            # from now on, everything written to it is discarded
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._failures is not None and not is_closed:
                raise OSError(error.errno, error.strerror, self._failures) from None
            return len(memoryview(content).cast("B"))
