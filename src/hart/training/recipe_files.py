"""Recipes as people write them: TOML files of one stage, with `key.subkey=value` behind the command."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from hart.files import FileError, read_toml
from hart.strict import Config, ConfigError, table_at

RECIPE_LIMIT = 2**20
"""Bytes of a recipe."""
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
    return kind.from_dict(values, str(path))


def _override(values: dict[str, Any], override: str, kind: type[Config]) -> None:
    key, separator, text = override.partition("=")
    *tables, name = (part.strip() for part in key.split("."))
    if not separator or not all((*tables, name)):
        raise ConfigError(f"override {override!r} is not of the form key=value")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {table} is not a table")
    field = getattr(table_at(kind, tuple(tables)), "__pydantic_fields__", {}).get(name)
    values[name] = _value(override, text, is_text=field is not None and _is_text(field.annotation))


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


def _is_text(hint: Any) -> bool:
    """Whether a field holds text, or one of some words."""
    if get_origin(hint) is Literal:
        return all(isinstance(word, str) for word in get_args(hint))
    return hint is str
