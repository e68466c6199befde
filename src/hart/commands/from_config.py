"""Commands from configurations: every field of a pydantic dataclass becomes an option, so that it is declared once.

    @app.command()
    @options_from_config
    def train(recipe: Annotated[Path, typer.Argument()], options: TrainOptions) -> None: ...

A field's type, default, `description` and bounds (`ge`, `le`) become the option's. Numbers of a tuple are separated by
commas or given by repeating the option, other items by repeating it; a switch that is on by default has a `--no-` form.
A field's `json_schema_extra` may hold `metavar`, `flags` (`["-n", "--count"]`), and `positional` for an argument.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hart.errors import HartError
from hart.strict import explain

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class SomeOf:
    """Use with a parameter's type as `Annotated[dict[str, Any], SomeOf(config)]`: it gets a dictionary of the
    configuration's fields, each an option without default, None for those not given. flags: for fields whose options
    are not named like them."""

    config: type
    flags: Mapping[str, str]


NUMBERS = (int, float)
PLAIN = (bool, int, float, str, Path)


def options_from_config(command: Callable[P, T]) -> Callable[..., T]:
    """Return a command with every parameter that is a configuration replaced by one option per field.

    A value that a field does not allow is a `HartError` naming the option.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    configs: dict[str, type] = {}
    partial: dict[str, SomeOf] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and is_pydantic_dataclass(hint):
            configs[parameter.name] = hint
            parameters += [_parameter(name, field) for name, field in config_fields(hint).items()]
        elif isinstance(some := getattr(hint, "__metadata__", (None,))[0], SomeOf):
            partial[parameter.name] = some
            parameters += [_unset(some, name, field) for name, field in config_fields(some.config).items()]
        else:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> T:
        for name, some in partial.items():
            given[name] = {field: given.pop(field) for field in config_fields(some.config)}
            changes = {field: value for field, value in given[name].items() if value is not None}
            config_from_options(some.config, changes, some.flags)  # only for its errors, before a model is opened
        for name, config in configs.items():
            given[name] = config_from_options(config, {field: given.pop(field) for field in config_fields(config)})
        return command(**given)  # type: ignore[call-arg]

    # it refuses two with the same name
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def config_from_options(config: type[T], given: dict[str, Any], flags: Mapping[str, str] | None = None) -> T:
    """Return the configuration with the given options, by field. flags: as in `SomeOf`. Raises `HartError` naming the
    option."""
    fields = config_fields(config)
    values = {name: _value(fields[name], value) for name, value in given.items()}
    try:
        return TypeAdapter(config).validate_python(values)
    except ValidationError as error:
        called = {name: "/".join(option_flags(name, field)) or name.upper() for name, field in fields.items()}
        said = explain(error, config, called=(called | dict(flags or {})).__getitem__)
        # a check across fields needs no name before it
        raise HartError(said.removeprefix(f"{config.__name__}: ")) from None


def option_flags(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Return how a field is given on the command line; nothing for an argument."""
    extra = _extra(field)
    if "flags" in extra or extra.get("positional"):
        return tuple(extra.get("flags", ()))
    flag = name.replace("_", "-")
    both = field_kind(field)[0] is bool and field.default is not False
    return (f"--{flag}/--no-{flag}" if both else f"--{flag}",)


def config_fields(config: type) -> dict[str, FieldInfo]:
    """Return the fields of a configuration by name, its own before those of its bases."""
    fields: dict[str, FieldInfo] = config.__pydantic_fields__  # type: ignore[attr-defined]
    order = dict.fromkeys(name for kind in config.__mro__ for name in inspect.get_annotations(kind))
    return {name: fields[name] for name in order if name in fields}


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, optional, many = field_kind(field)
    bounds = {type(bound).__name__.lower(): bound for bound in field.metadata}
    number = kind in NUMBERS and not many
    declared: dict[str, Any] = {
        "help": field.description,
        "min": bounds["ge"].ge if number and "ge" in bounds else None,
        "max": bounds["le"].le if number and "le" in bounds else None,
        "metavar": _extra(field).get("metavar", "N,..." if many and kind in NUMBERS else None),
    }
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        default = inspect.Parameter.empty
    elif many:
        default = [str(item) if kind in NUMBERS else item for item in default or ()]
    declared["show_default"] = default not in (None, [])
    if _extra(field).get("positional"):
        info: Any = typer.Argument(**declared)
    else:
        info = typer.Option(*option_flags(name, field), **declared)
    if many:
        kind = list[str if kind in NUMBERS else kind]  # type: ignore[misc]
    annotation = Annotated[kind | None if optional and not many else kind, info]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _unset(some: SomeOf, name: str, field: FieldInfo) -> inspect.Parameter:
    flags = [some.flags[name]] if name in some.flags else []
    option = typer.Option(*flags, help=field.description, show_default=False)
    annotation = Annotated[field_kind(field)[0] | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def field_kind(field: FieldInfo) -> tuple[Any, bool, bool]:
    """Return the type that the command line reads for a field (text if only the configuration can tell), whether it may
    be None, and whether there may be several."""
    kind: Any = field.annotation
    optional = False
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        others = [item for item in typing.get_args(kind) if item is not type(None)]
        optional = len(others) < len(typing.get_args(kind))
        kind = others[0] if len(others) == 1 else str
    many = typing.get_origin(kind) is tuple
    if many:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    return (kind if typing.get_origin(kind) is typing.Literal or kind in PLAIN else str), optional, many


def _value(field: FieldInfo, value: Any) -> Any:
    """Convert a value that typer read for the configuration."""
    kind, optional, many = field_kind(field)
    if not many:
        return value
    if not value and optional:
        return None
    if kind in NUMBERS:
        value = [_number(kind, text) for item in value for text in item.split(",")]
    return tuple(value)


def _number(kind: Callable[[str], object], text: str) -> object:
    try:
        return kind(text)
    except ValueError:
        return text  # the configuration says what is wrong with it
