"""The public names of the package and its rooms: what users and projects/emoji import."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import pytest

from hart.exports import lazy

PUBLIC = [
    "hart", "hart.checkpoint", "hart.commands", "hart.data", "hart.evaluation", "hart.files", "hart.lora",
    "hart.text_encoder", "hart.tokenizer", "hart.training",
]  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_import_and_have_a_docstring(package: str) -> None:
    module = import_module(package)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        value = getattr(module, name)
        assert not (inspect.isclass(value) or inspect.isroutine(value)) or inspect.getdoc(value), name
    assert set(module.__all__) <= set(dir(module))
    modules = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))}
    assert not modules & set(module.__all__), "an imported module hides a name that is imported on first use"


def test_other_names_are_refused() -> None:
    get, _ = lazy("hart")
    with pytest.raises(AttributeError, match="module 'hart' has no attribute 'HartPipelin'"):
        get("HartPipelin")
