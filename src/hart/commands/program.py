"""The command line of `hart`, or of a project built on it: sub-commands, and how errors look.

Exit codes: 0 done; 2 bad input or too little memory, one line on stderr; 130 Ctrl-C; 143 SIGTERM, for commands that
handle it.

The work continues when nobody reads the output any more (`hart train ... | head -1`).
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from hart.commands.streams import outlive_readers
from hart.errors import HartError, Stopped

BAD_INPUT, INTERRUPTED = 2, 130

OUT_OF_MEMORY = (
    "out of memory: generate fewer images together (--batch-size 1, a smaller -n), choose --dtype bfloat16, "
    "--device cpu or a model that generates smaller images; in training, a smaller trainer.batch_size"
)


class HartGroup(TyperGroup):
    """A command group that reports bad input in one line, without traceback and without a usage page."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        def run() -> Any:
            return super(HartGroup, self).main(args, prog_name, complete_var, False, windows_expand_args, **extra)

        if not standalone_mode:
            return run()
        try:
            code = run()
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
            # errors of the argument parser format themselves
            say = getattr(error, "format_message", None)
            if say is not None:
                _fail(f"{str(say()).rstrip('.')}; see --help")
            if _is_out_of_memory(error):
                _fail(OUT_OF_MEMORY)
            raise  # a fault of ours
        sys.exit(code if isinstance(code, int) else 0)


def _is_out_of_memory(error: Exception) -> bool:
    from hart.devices import is_out_of_memory  # loads PyTorch, which --help does not wait for

    return is_out_of_memory(error)


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(BAD_INPUT)


def new_program() -> typer.Typer:
    """A command line, still without sub-commands, that reports bad input in one line."""
    return typer.Typer(cls=HartGroup, pretty_exceptions_enable=False, add_completion=False)


def run_program(app: typer.Typer, name: str) -> None:
    """Run a `new_program` with this process's arguments, then exit. name: of the console script."""
    outlive_readers()
    app(prog_name=name)
