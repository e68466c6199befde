"""The command `hart`: how its parts are called, and how errors look.

Exit codes: 0 done; 1 `hart verify` found a difference; 2 bad input or too little memory, one line on stderr;
130 Ctrl-C; 143 SIGTERM where a command ends in order.

Nobody reading the output any more (`hart train ... | head -1`) is no reason to stop: the work goes on, unseen.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from hart import __version__
from hart.commands import (
    data,
    evaluate,
    generate,
    models,
    train,
)
from hart.errors import HartError, Stopped
from hart.streams import outlive_readers

BAD_INPUT, INTERRUPTED = 2, 130

OUT_OF_MEMORY = (
    "out of memory: draw fewer pictures together (--batch-size 1, a smaller -n), choose --dtype bfloat16, "
    "--device cpu or a model that draws smaller pictures; in training, a smaller trainer.batch_size"
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
            # what the argument parser raises knows how to say itself
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


app = typer.Typer(cls=HartGroup, pretty_exceptions_enable=False, add_completion=False)
app.command()(generate.generate)
app.command()(generate.reconstruct)
app.command()(models.info)
app.command()(models.convert)
app.command()(models.verify)
app.command()(train.train)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hart {__version__}")
        raise typer.Exit


@app.callback()
def hart(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """HART: text to image with a hybrid autoregressive transformer."""


def main() -> None:
    """Entry point of the console script."""
    outlive_readers()
    app(prog_name="hart")
