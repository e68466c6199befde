"""`hart evaluate SUITE`: the command line of every suite, made from its declaration."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer

from hart.commands.console import note, owned, progress
from hart.commands.from_config import options_from_config
from hart.commands.program import lazy_group, single_command
from hart.errors import HartError, not_installed
from hart.evaluation.suites.base import Context, Suite, SuiteOptions
from hart.evaluation.suites.core import installed_suites
from hart.strict import reason

HELP = "Measure a model: figures, a table and image grids."


def suite_app(suites: Mapping[str, Suite[Any] | str], program: str = "hart") -> typer.Typer:
    """Make suites sub-commands, by name. A suite given by its place, "module:variable", is imported when its command is
    used.

    program: name of the command line, for the record of a result.
    """
    commands = {
        name: (partial(_command, name, suite, program), suite.description if isinstance(suite, Suite) else None)
        for name, suite in suites.items()
    }
    group = lazy_group(commands, help=HELP, add_completion=False)
    group.callback()(lambda: None)
    return group


def _command(name: str, found: Suite[Any] | str, program: str) -> Any:
    suite = _imported(name, found) if isinstance(found, str) else found

    def command(
        options: SuiteOptions,
        out: Annotated[Path, typer.Option(help="Folder for figures.json, table.md and the images.")] = Path(
            f"outputs/evaluate-{suite.name}"
        ),
    ) -> None:
        from hart.evaluation.report import figures_table, write_result

        with owned(out, "an evaluation"):
            with progress("loading") as report:
                try:
                    result = suite(Context(options, out, report, note))
                except ModuleNotFoundError as error:
                    raise not_installed(error.name, f"'{suite.install}'") from None
            paths = write_result(out, result, shlex.join([program, *sys.argv[1:]]))
        typer.echo(figures_table(result))
        for remark in result.notes:
            note(remark)
        for path in paths:
            typer.echo(path)

    command.__annotations__["options"] = suite.options
    return single_command(suite.name, options_from_config(command), suite.description)


def _imported(name: str, place: str) -> Suite[Any]:
    """Import a suite. Raises `HartError` if it cannot be imported or is not a suite."""
    try:
        suite = resolve_name(place)
    except Exception as error:  # importing another package may raise anything
        raise HartError(f"the suite {name} cannot be imported from {place}: {reason(error)}") from None
    if not isinstance(suite, Suite):
        raise HartError(f"{place} is not a suite: give the place of a hart.evaluation.Suite")
    return suite


app = suite_app(installed_suites())
