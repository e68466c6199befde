"""Frozen dataclasses that pydantic reads strictly: the base of all configurations, recipes and records.

An unknown key, a missing key or a wrong value is a `ConfigError`: one line that names file, key, value and bound.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import operator
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache, wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, dataclass_transform, get_args

from pydantic import ConfigDict, FailFast, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.dataclasses import is_pydantic_dataclass

from hart.errors import HartError
from hart.files import read_json

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic_core import CoreSchema, ErrorDetails

SHOWN_ERRORS = 3
UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
MISSING = ("missing", "missing_argument")
MEANT = " meant?)"
SAID = {
    **dict.fromkeys(UNKNOWN, ": unknown key"),
    **dict.fromkeys(MISSING, ": missing key"),
    **dict.fromkeys(("int_type", "int_parsing"), ": expected a whole number, got {value}"),
    **dict.fromkeys(("float_type", "float_parsing"), ": expected a number, got {value}"),
    "bool_type": ": expected true or false, got {value}",
    "string_type": ": expected text, got {value}",
    "path_type": ": expected a path, got {value}",
    "tuple_type": ": expected a list, got {value}",
    "dataclass_type": ": expected a table, got {value}",
    "dict_type": ": expected a table, got {value}",
    "greater_than_equal": " must be at least {ge}, not {value}",
    "greater_than": " must be above {gt}, not {value}",
    "less_than_equal": " must be at most {le}, not {value}",
    "less_than": " must be below {lt}, not {value}",
    "too_short": " must have {min_length} or more entries, not {actual_length}",
    "too_long": " must have {max_length} or fewer entries, not {actual_length}",
}
"""Kinds of pydantic errors -> text after the key, where pydantic's own wording is unclear."""
LONGEST_KEY = 60

T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Strict(False), FailFast()]
"""A tuple; JSON and TOML hold it as a list. Only its first wrong entry is reported."""


class ConfigError(HartError):
    """A configuration that cannot be read or is inconsistent; the message names the field and the reason."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
class Config:
    """Every subclass is a frozen pydantic dataclass with a strict dictionary round trip.

    However an object is created, types are exact (a whole number may serve as a float), numbers finite and unknown keys
    rejected. The string under a field describes it. Checks across fields are in `__post_init__` and call `require`; a
    message that begins with a field's name gets the field's full key. kw_only: as for any dataclass.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]
        __pydantic_fields__: ClassVar[dict[str, FieldInfo]]

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()
        own = inspect.get_annotations(cls)
        for name, text in _texts_under_fields(cls.__module__).get(cls.__name__, {}).items():
            if name in own and not str(own[name]).startswith("ClassVar"):
                cls.__annotations__[name] = Annotated[own[name], Field(description=text)]
        options = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        pydantic_dataclass(frozen=True, kw_only=kw_only, config=options)(cls)
        checked = cls.__init__

        @wraps(checked)
        def __init__(self: Config, *args: Any, **kwargs: Any) -> None:
            try:
                checked(self, *args, **kwargs)
            except ValidationError as error:
                raise ConfigError(explain(error, cls)) from None

        cls.__init__ = __init__  # type: ignore[method-assign, assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # strict fields, but a table may stand for an object, since files hold tables
        return {**handler(source), "strict": False}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back as an equal object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "", called: Callable[[str], str] | None = None) -> Self:
        """Read an object from plain types. Raises `ConfigError`, which begins with `source`, by default the class name,
        or with the caller's name for the wrong field."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source, called)) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a stored JSON file. Raises `FileError` if it is missing or no JSON, `ConfigError` if it does not fit."""
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return keys with types, defaults, bounds and descriptions, as JSON Schema."""
        return TypeAdapter(cls).json_schema()

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


@cache
def _texts_under_fields(module: str) -> dict[str, dict[str, str]]:
    """Map a module's classes to their fields and the strings under them, from its source; empty if that is missing.

    Pydantic can find them too, but not those of base classes.
    """
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError):
        return {}
    return {node.name: _texts(node.body) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _texts(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for pair in pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


Place = tuple[int | str, ...]


def explain(error: ValidationError, kind: type, source: str = "", called: Callable[[str], str] | None = None) -> str:
    """Return in one line what pydantic found wrong with the values of a dataclass.

    A misspelt key comes first, since it may be the reason for a missing one. source: what the line begins with; if
    empty, the class name. called: returns the caller's name for a field of `kind`, such as an option, to use in place
    of source and key.
    """
    found = error.errors(include_url=False)
    unknown, missing = ([entry for entry in found if entry["type"] in kinds] for kinds in (UNKNOWN, MISSING))
    found = (unknown or missing or found)[:SHOWN_ERRORS]
    lines = [_line(kind, entry, source, called) for entry in found]
    if unknown and not lines[-1].endswith(MEANT):
        lines.append(f"known are {', '.join(_tables(table_at(kind, found[-1]['loc'][:-1])))}")
    return "; ".join([lines[0], *(line.removeprefix(f"{source}: ") for line in lines[1:])])


def table_at(kind: Any, place: Place) -> Any:
    """Return the class of the table at `place` below a configuration; None if there is none."""
    for part in place:
        kind = _tables(kind).get(str(part))
    return kind


def _line(kind: type, entry: ErrorDetails, source: str, called: Callable[[str], str] | None) -> str:
    place, said = entry["loc"], _said(entry)
    if place and isinstance(place[0], int) and entry["type"] not in UNKNOWN:  # an argument without its name
        place = (*(name for number, name in enumerate(_tables(kind)) if number == place[0]), *place[1:])
    if entry["type"] in UNKNOWN:
        said += _meant(kind, place)
    # a check across fields names the wrong one
    elif (named := re.fullmatch(r"(?:: )?([a-z0-9_.]+)(:? .+)", said, re.DOTALL)) and entry["type"] == "value_error":
        names = named[1].split(".")
        if names[0] in _tables(table_at(kind, place)):
            place, said = (*place, *names), named[2]
        elif place and names == [str(place[-1])]:  # the label already names it
            said = f":{named[2].removeprefix(':')}"
    begin = source or kind.__name__
    if called and place:
        begin, place, source = called(str(place[0])), place[1:], ""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{clipped(part, LONGEST_KEY)}" for part in place)
    return (f"{source}: {key.removeprefix('.')}" if source and key else begin + key) + said


def _said(entry: ErrorDetails) -> str:
    """Return what is wrong with a value, to follow its key."""
    context, value = entry.get("ctx", {}), shown(entry["input"])
    if entry["type"] == "value_error":
        said = str(context["error"])
        return f" {said}" if said.startswith("must ") else f": {said}"
    if entry["type"] in SAID:
        bounds = {name: _number(bound) for name, bound in context.items() if isinstance(bound, int | float)}
        return SAID[entry["type"]].format(value=value, **bounds)
    return f" {entry['msg'].removeprefix('Input ').replace('should', 'must', 1)}, not {value}"


def _meant(kind: type, place: Place) -> str:
    """Return suggestions for an unknown key."""
    *table, key = (*place[:-1], clipped(place[-1], LONGEST_KEY))
    siblings, everywhere = _tables(table_at(kind, tuple(table))), list(_keys(kind))
    found = [other for other in everywhere if other[-1] == key]
    found = found or [(*table, near) for near in get_close_matches(key, siblings, n=1)]
    if not found:
        names = get_close_matches(key, {str(other[-1]) for other in everywhere}, n=1, cutoff=0.8)
        found = [other for other in everywhere if other[-1] in names]
    return f" (is {' or '.join('.'.join(map(str, other)) for other in found)}{MEANT}" if found else ""


def _tables(kind: Any) -> dict[str, Any]:
    """Map the fields of a configuration to their class if they are tables, else None; empty for anything else."""
    found = {}
    for name, field in getattr(kind, "__pydantic_fields__", {}).items():
        kinds = [part for part in (field.annotation, *get_args(field.annotation)) if is_pydantic_dataclass(part)]
        found[name] = kinds[0] if kinds else None
    return found


def _keys(kind: Any, begin: Place = ()) -> Iterator[Place]:
    for name, table in _tables(kind).items():
        yield (*begin, name)
        yield from _keys(table, (*begin, name))


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def has_members(value: object, protocol: type) -> bool:
    """Return whether a value has every public name of a protocol, and can be called if the protocol can.

    `isinstance` is not used: from Python 3.12 on it misses what a wrapper passes on through `__getattr__`.
    """
    names = {*vars(protocol), *protocol.__annotations__}
    return all(hasattr(value, name) for name in names if not name.startswith("_") or name == "__call__")


def as_index(value: object) -> int | None:
    """Return a whole Python or numpy number as an int; None for anything else, booleans included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def whole_number(name: str, value: object, least: int, most: int) -> int:
    """Return `value`, of Python or numpy, if it is a whole number from `least` to `most`. Errors call it `name`."""
    number = as_index(value)
    if number is None or not least <= number <= most:
        raise HartError(f"{name} {shown(value)}: give a whole number, at least {least} and at most {most}")
    return number


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition`."""
    if not condition:
        raise ConfigError(message)


def shown(value: Any) -> str:
    """Return a value for an error message: shortened if it is long or deeply nested."""
    return reprlib.repr(value)


def printable(text: str) -> str:
    """Return text of any origin in printable form: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clipped(text: object, length: int = 200) -> str:
    """Return text of any origin for an error message: printable, on one line, and shortened if it is long."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= length else line[:length].rstrip() + "..."


def counted(count: int, noun: str) -> str:
    """ "1 image", "2,000 images", "3 classes": a number with a noun that has a regular plural."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def rounded(number: float) -> str:
    """Return three digits, and all before the point: 0.0123, 1.23, 1,234."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def byte_count(count: float) -> str:
    """860 kB, 12.3 MB, 4.56 GB"""
    for size, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{rounded(count / size)} {name}"
    return f"{rounded(count / 1e3)} kB"


def reason(error: BaseException) -> str:
    """Return a library's error message for use in one of ours; the error's type if it has no message."""
    return clipped(error) or type(error).__name__
