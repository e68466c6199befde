"""Frozen dataclasses that are read strictly from JSON or TOML: what all configurations, recipes and records share.

An unknown key, a missing one or a wrong value is a `ConfigError` that names it.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from hart.errors import HartError
from hart.files import FileError, read_json

SHOWN_NAMES = 8


class ConfigError(HartError):
    """A configuration that cannot be read or does not fit together; says which field and why."""


@dataclass(frozen=True)
class Config:
    """Strict dictionary round trip shared by every configuration below.

    The kinds below also check the types of what they are built from, since callers of the library build them.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, Config):
                _convert(f"{type(self).__name__}.{f.name}", hints[f.name], value)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises `ConfigError` for unknown or missing keys and for values of another type."""
        require(isinstance(values, dict), f"{cls.__name__}: expected a table, got {shown(values)}")
        hints = typing.get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            names = ", ".join(_with_table(name, hints) for name in unknown[:SHOWN_NAMES])
            raise ConfigError(f"{cls.__name__}: unknown key(s) {names}; known are {', '.join(fields)}")
        missing = sorted(
            name
            for name, f in fields.items()
            if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        )
        if missing:
            raise ConfigError(f"{cls.__name__}: missing key(s) {', '.join(missing)}")
        return cls(**{name: _convert(f"{cls.__name__}.{name}", hints[name], value) for name, value in values.items()})

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file. Raises `ConfigError` naming it when it is absent, no JSON, or does not fit."""
        values = read_object(path)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def _with_table(name: str, hints: dict[str, Any]) -> str:
    """An unknown key for a message; with its full name where a table inside has a key of this name."""
    tables = {
        table: part
        for table, hint in hints.items()
        for part in (hint, *typing.get_args(hint))
        if isinstance(part, type) and issubclass(part, Config)
    }
    full = [f"{table}.{name}" for table, kind in tables.items() if name in {f.name for f in dataclasses.fields(kind)}]
    known = shown(name).strip("'")
    return f"{known} (is {' or '.join(full)} meant?)" if full else known


def _convert(where: str, hint: Any, value: Any) -> Any:
    """`value` from JSON or TOML as the annotated type, or a `ConfigError` naming the field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(where, next(a for a in arguments if a is not type(None)), value)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {shown(value)} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {shown(value)}")
        return tuple(_convert(f"{where}[{i}]", arguments[0], item) for i, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Config):
        require(isinstance(value, dict), f"{where}: expected a table, got {shown(value)}")
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 2**1023, f"{where}: {shown(value)} is too large")
        return float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {shown(value)}")
    return value


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition`."""
    if not condition:
        raise ConfigError(message)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of settings. Raises `ConfigError` naming the file when it holds none."""
    try:
        return read_json(path)
    except FileError as error:
        raise ConfigError(str(error)) from None


def shown(value: Any) -> str:
    """A value for an error: shortened where it is long or deeply nested."""
    return reprlib.repr(value)


def clipped(text: object, length: int = 200) -> str:
    """Words of others for an error: on one line, and shortened where they are long."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[:length].rstrip() + "..."


def reason(error: BaseException) -> str:
    """What an error of a library says, for one of ours; its kind where it says nothing."""
    return clipped(error) or type(error).__name__


def require_positive(config: Config, *names: str) -> None:
    """Raise `ConfigError` for the first of the fields `names` that is below 1."""
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{type(config).__name__}.{name} must be at least 1, not {shown(value)}")


def require_sizes(config: Config, **largest: int) -> None:
    """Raise `ConfigError` for the first of the named fields that is below 1 or above what is given for it."""
    require_positive(config, *largest)
    for name, most in largest.items():
        value = getattr(config, name)
        require(value <= most, f"{type(config).__name__}.{name} must be at most {most}, not {shown(value)}")
