"""Recipe changes from the command line: key=value. Texts need no quotes, lists no brackets; the rest is TOML."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal, get_args, get_origin

from hart.strict import Config, ConfigError, table_at


def apply_override(values: dict[str, Any], override: str, kind: type[Config]) -> None:
    """Change the `values` of a `kind` by key=value, such as trainer.steps=10. Raises `ConfigError`."""
    key, separator, text = override.partition("=")
    *tables, name = (part.strip() for part in key.split("."))
    if not separator or not all((*tables, name)):
        raise ConfigError(f"override {override!r} is not of the form key=value")
    for table in tables:
        if values.get(table) is None:  # absent, or left out in the recipe.json of a run
            values[table] = {}
        values = values[table]
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {table} is not a table")
    field = getattr(table_at(kind, tuple(tables)), "__pydantic_fields__", {}).get(name)
    hint = None if field is None else field.annotation
    if get_origin(hint) is tuple:
        values[name] = _list(override, text, is_text=_is_text(get_args(hint)[0]))
    else:
        values[name] = _value(override, text, is_text=_is_text(hint))


def _list(override: str, text: str, *, is_text: bool) -> list[Any]:
    """Return a list in TOML, or as a shell leaves it: without brackets or some quotes, where 2024 may be text too."""
    for toml in (text, f"[{text}]"):
        found = _value(override, toml, is_text=False)
        if isinstance(found, list) and (not is_text or all(isinstance(one, str) for one in found)):
            return found
    words = text.strip().removeprefix("[").removesuffix("]").split(",")
    return [_value(override, bare, is_text=is_text) for word in words if (bare := word.strip(" '\""))]


def _value(override: str, text: str, *, is_text: bool) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise ConfigError(f"override {override[:40]!r}...: is nested too deeply") from None
    except (ValueError, OverflowError):
        return text.strip()
    value = parsed["value"]
    # a line break would end the value, and start another key
    return text.strip() if len(parsed) > 1 or (is_text and not isinstance(value, str)) else value


def _is_text(hint: Any) -> bool:
    """Return whether a field holds text, or one of several words."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return all(isinstance(word, str) for word in get_args(hint))
    return hint is str
