"""Tables of the reference pages, made from the code: keys of configurations, options of suites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hart.benchmark.report import table
from hart.commands.from_config import config_fields, option_flags
from hart.evaluation.suites.core import SUITES
from hart.strict import Config

TYPE_NAMES = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text", "array": "list"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}

Row = tuple[str, str, str, str, str]
"""A key of a configuration: name, type, default, allowed values, description."""


def key_table(kind: type[Config]) -> list[Row]:
    """Return every key of a configuration, from its JSON schema."""
    schema = kind.json_schema()
    return list(_rows(schema, schema.get("$defs", {}), ""))


def _rows(table: dict[str, Any], tables: dict[str, Any], begin: str) -> Iterator[Row]:
    for name, declared in table["properties"].items():
        choices = [part for part in declared.get("anyOf", [declared]) if part.get("type") != "null"]
        value = choices[0]
        if "$ref" in value:
            yield from _rows(tables[value["$ref"].rpartition("/")[2]], tables, f"{begin}{name}.")
            continue
        default = "required" if name in table.get("required", ()) else json.dumps(declared.get("default"))
        kind = TYPE_NAMES[value["type"]] + (f" of {TYPE_NAMES[value['items']['type']]}" if "items" in value else "")
        said = declared.get("description", "")
        yield f"{begin}{name}", kind, default.replace("null", "none"), _allowed(value.get("items", value)), said


def _allowed(value: dict[str, Any]) -> str:
    if "enum" in value:
        return ", ".join(map(json.dumps, value["enum"]))
    limits = {words: _number(value[name]) for name, words in BOUNDS.items() if name in value}
    if list(limits) == ["at least", "at most"]:
        return " to ".join(limits.values())
    return ", ".join(f"{words} {number}" for words, number in limits.items())


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def suites_reference() -> str:
    """Return the suites of this package with their options, in Markdown."""
    parts = []
    for suite in SUITES.values():
        rows = (
            [
                f"`{' '.join(option_flags(name, field))}`",
                "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`",
                field.description or "",
            ]
            for name, field in config_fields(suite.options).items()
        )
        parts += [f"## {suite.name}", suite.description, "\n".join(table(["option", "default", "what"], rows))]
    return "\n\n".join(parts) + "\n"
