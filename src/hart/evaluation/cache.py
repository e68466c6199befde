"""Results that a suite has computed, kept in files so that a stopped run continues.

Each entry is a file, written whole or not at all. Its name is either a digest of everything that determines it
(`Cache.key`), so that it is only reused if all of that is the same; or chosen by the caller: then a `plan.json` beside
the files says what they belong to, and a folder with another plan is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.data.images import open_image
from hart.errors import HartError
from hart.evaluation.suites.base import Progress, silent
from hart.files import FileError, read_json, write_json, write_text
from hart.generation.metadata import save_png
from hart.strict import explain

PLAN_FILE = "plan.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How entries are stored. read: raises `HartError` for a file of another form."""

    suffix: str
    write: Callable[[Path, T], None]
    read: Callable[[Path], T]


def records(kind: Any) -> Form[Any]:
    """Store values of a type that pydantic knows, such as a configuration or a dictionary of figures, as JSON files."""
    adapter = TypeAdapter(kind)

    def read(path: Path) -> Any:
        try:
            return adapter.validate_python(read_json(path))
        except ValidationError as error:
            raise HartError(explain(error, kind, str(path))) from None

    return Form(".json", lambda path, value: write_text(path, adapter.dump_json(value, indent=1).decode()), read)


TENSORS: Form[Mapping[str, Tensor]] = Form(".safetensors", write_safetensors, read_safetensors)
IMAGES: Form[Image.Image] = Form(".png", save_png, open_image)


class Cache(Generic[T]):
    """Entries of one form in a folder."""

    def __init__(
        self,
        folder: Path,
        form: Form[T],
        facts: Mapping[str, Any] | None = None,
        *,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        """facts: what determines all entries, as JSON values; part of the keys. plan: the same for names chosen by the
        caller. Raises `HartError` if the folder holds entries of another plan."""
        self.folder = folder
        self._form = form
        self._facts = json.dumps(facts, sort_keys=True)
        file = folder / PLAN_FILE
        if plan is not None and file.exists():
            _require_same(file, plan)
        elif plan is not None:
            if any(folder.glob(f"*{form.suffix}")):
                raise HartError(f"{folder}: holds files but no {PLAN_FILE}: choose another --out, or empty it")
            write_json(file, dict(plan))

    def key(self, *parts: object) -> str:
        """Return the name of an entry: a digest of the facts and of its own parts: bytes, tensors, JSON values."""
        digest = hashlib.sha256(self._facts.encode())
        for part in parts:
            if isinstance(part, Tensor):
                part = f"{part.dtype} {tuple(part.shape)} ".encode() + part.numpy().tobytes()  # noqa: PLW2901
            content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
            digest.update(len(content).to_bytes(8, "big") + content)
        return digest.hexdigest()

    def path(self, name: str) -> Path:
        """Return where an entry is or will be stored."""
        return self.folder / f"{name}{self._form.suffix}"

    def read(self, name: str) -> T:
        """Return an entry. Raises `HartError` that names a damaged file."""
        try:
            return self._form.read(self.path(name))
        except HartError as error:
            raise HartError(f"{error}: delete it, and it is computed again") from None

    def fill(
        self,
        names: Sequence[str],
        compute: Callable[[list[int]], Iterable[T]],
        batch_size: int = 1,
        progress: Progress = silent,
        what: str = "{} of {} done",
    ) -> int:
        """Compute what is missing, and return how many entries already existed.

        compute: returns the values at up to `batch_size` places of `names`. what: the text for `progress`, with
        placeholders for how many are done and how many there are.
        """
        missing = [place for place, name in enumerate(names) if not self.path(name).exists()]
        kept = len(names) - len(missing)
        for start in range(0, len(missing), batch_size):
            progress(kept + start, len(names), what.format(kept + start, len(names)))
            batch = missing[start : start + batch_size]
            for place, value in zip(batch, compute(batch), strict=True):
                self._form.write(self.path(names[place]), value)
        return kept

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """Return one entry, computed at the first call. Raises like `read`."""
        self.fill([name], lambda _: [compute()])
        return self.read(name)


def _require_same(file: Path, plan: Mapping[str, Any]) -> None:
    """Raise `HartError` that names what differs in a plan file."""
    advice = "choose another --out, or delete the folder"
    try:
        found = read_json(file)
    except FileError as error:
        raise HartError(f"{error}: {advice}") from None
    if other := _differing(found, json.loads(json.dumps(plan))):
        raise HartError(f"{file.parent}: holds results of another run, which differ in {', '.join(other)}: {advice}")


def _differing(a: Any, b: Any, name: str = "") -> list[str]:
    """Return names of the JSON values that differ, nested ones as `outer.inner`."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [name]
    names = dict.fromkeys([*b, *a])
    return [each for key in names for each in _differing(a.get(key), b.get(key), f"{name}.{key}".lstrip("."))]
