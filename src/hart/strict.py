"""Frozen dataclasses that pydantic reads strictly: the base of all configurations, recipes and records.

An unknown key, a missing one or a wrong value is a `ConfigError`: one line that names file, key, value and bound.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import operator
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache, wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, dataclass_transform, get_args

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.dataclasses import is_pydantic_dataclass

from hart.errors import HartError
from hart.files import read_json

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic_core import CoreSchema, ErrorDetails

SHOWN_NAMES = 8
SHOWN_ERRORS = 3
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "dataclass_type": "a table",
    "dict_type": "a table",
}
BOUNDS = {
    "greater_than_equal": ("ge", "be at least {}"),
    "greater_than": ("gt", "be above {}"),
    "less_than_equal": ("le", "be at most {}"),
    "less_than": ("lt", "be below {}"),
    "too_short": ("min_length", "have {} or more entries"),
    "too_long": ("max_length", "have {} or fewer entries"),
}
LONGEST_KEY = 60
"""Longest unknown key, in characters, for which another is suggested."""

T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Strict(False)]
"""A tuple; JSON and TOML hold it as a list."""


class ConfigError(HartError):
    """A configuration that cannot be read or does not fit together; the message names the field and the reason."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
class Config:
    """Every subclass is a frozen pydantic dataclass with a strict dictionary round trip.

    However an object is made, types are exact (a whole number serves as a float), numbers finite and unknown keys
    refused. The text under a field describes it. Checks across fields are in `__post_init__` and call `require`; a
    message that begins with the name of a field gets the field's full key. kw_only: as for any dataclass.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]
        __pydantic_fields__: ClassVar[dict[str, FieldInfo]]

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()
        own = inspect.get_annotations(cls)
        for name, text in _texts_under_fields(cls).items():
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
        # strict fields, but a table may stand for an object: files hold tables
        return {**handler(source), "strict": False}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads it back to an equal object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "", called: Callable[[str], str] | None = None) -> Self:
        """Raises `ConfigError`, which begins with `source`, or with the name of the class if that is empty; or with
        the name that the caller has for the wrong field."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source, called)) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a stored JSON file. Raises `FileError` if it is absent or not JSON, `ConfigError` if it does not fit."""
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Keys with types, defaults, bounds and descriptions, as JSON Schema."""
        return TypeAdapter(cls).json_schema()

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _texts_under_fields(kind: type) -> dict[str, str]:
    """Fields of a class -> the texts under them, from its source; empty if that is not at hand.

    Pydantic can find them too, but not those of base classes. Each module is parsed once: `inspect` parses all of it
    for every class, which doubles the time to import this package's settings.
    """
    try:
        source = inspect.getsource(sys.modules[kind.__module__])
    except (KeyError, OSError, TypeError):
        return {}
    return _texts_by_class(source).get(kind.__qualname__, {})


@cache
def _texts_by_class(source: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}

    def look(parent: ast.AST, begin: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                found[f"{begin}{node.name}"] = _texts(node.body)
                look(node, f"{begin}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                look(node, f"{begin}{node.name}.<locals>.")

    look(ast.parse(source), "")
    return found


def _texts(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for pair in pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


Place = tuple[int | str, ...]


def explain(error: ValidationError, kind: type, source: str = "", called: Callable[[str], str] | None = None) -> str:
    """What pydantic found wrong with the values of a dataclass, as one line.

    A misspelt key comes before all else, since it may be the reason for a missing one. source: what the line begins
    with; if empty, the name of the class. called: the caller's name for a field of `kind`, such as an option, in place
    of source and key.
    """
    found = [entry for entry in error.errors(include_url=False) if not _miscounted(entry, error)]
    unknown = [entry for entry in found if entry["type"] in ("unexpected_keyword_argument", "invalid_key")]
    missing = [entry for entry in found if entry["type"] in ("missing", "missing_argument")]
    if entries := unknown or missing:
        table = entries[0]["loc"][:-1]
        keys = [entry["loc"][-1] for entry in entries if entry["loc"][:-1] == table]
        said = _unknown_keys(kind, table, keys) if unknown else f"missing key(s) {', '.join(map(str, keys))}"
        return f"{_label(kind, table, source, None)}: {said}"
    lines = [_line(kind, entry, source, called) for entry in found[:SHOWN_ERRORS]]
    return "; ".join([lines[0], *(line.removeprefix(f"{source}: ") for line in lines[1:])])


def _miscounted(entry: ErrorDetails, error: ValidationError) -> bool:
    """Whether a list is said to be too short because pydantic does not count its wrong entries, which are said too."""
    place = entry["loc"]
    return entry["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in error.errors()
    )


def table_at(kind: Any, place: Place) -> Any:
    """The class of the table at `place` below a configuration; None if there is none."""
    for part in place:
        kind = _tables(kind).get(str(part))
    return kind


def _line(kind: type, entry: ErrorDetails, source: str, called: Callable[[str], str] | None) -> str:
    place, said = entry["loc"], _said(entry)
    # a check across fields names the one that is wrong
    field, _, message = said.removeprefix(": ").partition(" ")
    names = field.rstrip(":").split(".")
    if entry["type"] == "value_error" and names[0] in _tables(table_at(kind, place)):
        place, said = (*place, *names), f"{':' * field.endswith(':')} {message}"
    elif entry["type"] == "value_error" and place and names == [str(place[-1])]:  # the label names it already
        said = f": {message}"
    return _label(kind, place, source, called) + said


def _said(entry: ErrorDetails) -> str:
    """What is wrong with a value, to follow its key."""
    kind, context, value = entry["type"], entry.get("ctx", {}), shown(entry["input"])
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return f" must {words.format(_number(context[bound]))}, not {context.get('actual_length', value)}"
    if kind == "value_error":
        said = str(context["error"])
        return f" {said}" if said.startswith("must ") else f": {said}"
    if kind == "literal_error":
        return f" must be {context['expected']}, not {value}"
    if kind == "string_unicode":
        return f": {value} is not valid Unicode text"
    if kind == "finite_number":
        return f" must be a finite number, not {value}"
    if kind == "float_type" and isinstance(entry["input"], int) and not isinstance(entry["input"], bool):
        return f": {value} is too large"
    if kind in EXPECTED:
        return f": expected {EXPECTED[kind]}, got {value}"
    return f" {entry['msg'].removeprefix('Input ').replace('should', 'must', 1)}, not {value}"


def _label(kind: type, place: Place, source: str, called: Callable[[str], str] | None) -> str:
    """What a line begins with: `TrainerConfig.steps`, `recipe.toml: trainer.steps`, `x.json: files[1]`, `--out`."""
    if place and isinstance(place[0], int):  # an argument without its name
        place = (*[name for number, name in enumerate(_tables(kind)) if number == place[0]], *place[1:])
    if called and place:
        place, source = (called(str(place[0])), *place[1:]), ""
    else:
        source = f"{source}: " if source and place else source or f"{kind.__name__}{'.' * bool(place)}"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{clipped(part, LONGEST_KEY)}" for part in place)
    return source + key.removeprefix(".")


def _unknown_keys(kind: type, table: Place, keys: list[Any]) -> str:
    """Unknown keys of a table, each with a suggestion if there is one, or else followed by all known keys."""
    near = table_at(kind, table)
    names = {}
    for key in map(str, keys[:SHOWN_NAMES]):
        names[clipped(key, LONGEST_KEY)] = _meant(key, kind, table) if len(key) <= LONGEST_KEY else []
    said = [name + (f" (is {' or '.join(meant)} meant?)" if meant else "") for name, meant in names.items()]
    known = "" if all(names.values()) else f"; known are {', '.join(_tables(near))}"
    return f"unknown key(s) {', '.join(said)}{known}"


def _meant(key: str, kind: type, table: Place) -> list[str]:
    """The full keys that an unknown one may stand for."""
    near = table_at(kind, table)
    places = list(_keys(kind))
    if elsewhere := [place for place in places if place[-1] == key]:
        return [_dotted(place) for place in elsewhere]
    siblings = get_close_matches(key, _tables(near), n=1)
    if siblings:
        return [_dotted((*table, siblings[0]))]
    names = get_close_matches(key, {str(place[-1]) for place in places}, n=1, cutoff=0.8)
    return [_dotted(place) for place in places if place[-1] in names]


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _tables(kind: Any) -> dict[str, Any]:
    """Fields of a configuration -> their class if they are tables, else None; empty for anything else."""
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
    """Whether a value answers to every public name of a protocol, and can be called where that can.

    Not by `isinstance`, which from Python 3.12 on does not see what a wrapper passes on through `__getattr__`.
    """
    names = {*vars(protocol), *protocol.__annotations__}
    return all(hasattr(value, name) for name in names if not name.startswith("_") or name == "__call__")


def as_index(value: object) -> int | None:
    """A whole number of Python or numpy as an int; None for anything else, booleans included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def whole_number(name: str, value: object, least: int, most: int) -> int:
    """`value`, of Python or numpy, if it is a whole number from `least` to `most`. `name` is what errors call it."""
    number = as_index(value)
    if number is None or not least <= number <= most:
        raise HartError(f"{name} {shown(value)}: give a whole number, at least {least} and at most {most}")
    return number


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition`."""
    if not condition:
        raise ConfigError(message)


def shown(value: Any) -> str:
    """A value for an error message: shortened if it is long or deeply nested."""
    return reprlib.repr(value)


def printable(text: str) -> str:
    """Text of any origin as it can be printed: control characters and lone surrogates as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clipped(text: object, length: int = 200) -> str:
    """Text of any origin for an error: printable, on one line, and shortened where it is long."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= length else line[:length].rstrip() + "..."


def counted(count: int, noun: str) -> str:
    """ "1 image", "2,000 images", "3 classes": a number of what has a regular plural."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def rounded(number: float) -> str:
    """Three digits, and all before the point: 0.0123, 1.23, 1,234."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def byte_count(count: float) -> str:
    """860 kB, 12.3 MB, 4.56 GB"""
    for size, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{rounded(count / size)} {name}"
    return f"{rounded(count / 1e3)} kB"


def reason(error: BaseException) -> str:
    """A library's error message, for one of ours; the error's type if it has none."""
    return clipped(error) or type(error).__name__
