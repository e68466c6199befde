"""Recipes as people write them: TOML files of one stage, with `key.subkey=value` behind the command."""

from __future__ import annotations

import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from hart.config import Config, ConfigError
from hart.files import FileError, read_toml

RECIPE_LIMIT = 2**20
"""Bytes of a recipe."""
MOST = 2.0**63
MAIN_TABLES = {"transformer": "transformer", "tokenizer": "tokenizer"}
"""Stage -> the table that its recipes have, and those of the stages after it have not."""

C = TypeVar("C", bound=Config)


def read_recipe(kind: type[C], stage: str, path: Path, overrides: tuple[str, ...] = ()) -> C:
    """The recipe in a TOML file, of class `kind`. stage: what that class is for.

    overrides: texts for text fields as they stand, TOML values for others. Raises `ConfigError`.
    """
    try:
        values = read_toml(path, RECIPE_LIMIT)
    except FileError as error:
        raise ConfigError(f"{error}: give a recipe, such as those in recipes/") from None
    found = [name for name, table in MAIN_TABLES.items() if isinstance(values.get(table), dict)]
    if found and stage not in found and stage in MAIN_TABLES:
        raise ConfigError(f"{path}: this recipe is of stage {found[0]}: run hart train {found[0]}")
    for override in overrides:
        _override(values, override, kind)
    _require_numbers(values, "")
    try:
        return kind.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {_with_keys(str(error), kind, values)}") from None


def _require_numbers(value: Any, place: str) -> None:
    """Raise `ConfigError` for a number that is not finite or has more than 64 bits, wherever it stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _require_numbers(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _require_numbers(inner, f"{place}[{number}]")
    elif isinstance(value, int | float) and not abs(value) < MOST:
        what = "no finite number" if isinstance(value, float) else "too large"
        raise ConfigError(f"{place} is {what}: give one of less than 64 bits")


def _with_keys(message: str, kind: type[Config], values: dict[str, Any]) -> str:
    """A message with keys as the file has them in place of the names of classes; those of two tables stay."""
    keys: dict[str, list[str]] = {}
    _find_tables(kind, values, "", keys)
    for name, places in keys.items():
        if len(places) == 1:
            message = message.replace(f"{name}.", f"{places[0]}." if places[0] else "")
            message = message.replace(f"{name}: ", f"{places[0]}: " if places[0] else "")
    return message


def _find_tables(kind: type[Config], values: dict[str, Any], place: str, keys: dict[str, list[str]]) -> None:
    keys.setdefault(kind.__name__, []).append(place)
    for name, value in values.items():
        hint = _field(kind, name)
        if isinstance(value, dict) and isinstance(hint, type) and issubclass(hint, Config):
            _find_tables(hint, value, f"{place}.{name}" if place else name, keys)


def _override(values: dict[str, Any], override: str, kind: type[Config]) -> None:
    key, separator, text = override.partition("=")
    *tables, name = (part.strip() for part in key.split("."))
    if not separator or not all((*tables, name)):
        raise ConfigError(f"override {override!r} is not of the form key=value")
    hint: Any = kind
    for table in tables:
        hint = _field(hint, table)
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {table} is not a table")
    values[name] = _value(override, text, is_text=_is_text(_field(hint, name)))


def _value(override: str, text: str, *, is_text: bool) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise ConfigError(f"override {override[:40]!r}...: is nested too deeply") from None
    except (ValueError, OverflowError):
        return text.strip()
    value = parsed["value"]
    # a line break would end the value, and begin another key
    return text.strip() if len(parsed) > 1 or (is_text and not isinstance(value, str)) else value


def _field(hint: Any, name: str) -> Any:
    """The type of a field of a configuration class, without "or nothing"; None where there is no such field."""
    found = typing.get_type_hints(hint).get(name) if isinstance(hint, type) and issubclass(hint, Config) else None
    if typing.get_origin(found) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(found) if part is not type(None))
    return found


def _is_text(hint: Any) -> bool:
    """Whether a field holds text, or one of some words."""
    if typing.get_origin(hint) is Literal:
        return all(isinstance(word, str) for word in typing.get_args(hint))
    return hint is str
