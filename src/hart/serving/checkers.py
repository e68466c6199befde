"""Refusing prompts. A checker is asked before anything is sampled; what it refuses is said, never replaced."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hart.errors import HartError
from hart.files import read_text, text_lines, user_path
from hart.serving.options import BUILT_IN_CHECKS

if TYPE_CHECKING:
    from hart.networks.shield_gemma import ShieldGemma

BUILT_IN = Path(__file__).with_name("refused_words.txt")
LOOK_ALIKES = str.maketrans("013457@$", "oieastas")
"""Signs that stand for letters."""


class PromptChecker(Protocol):
    """Called from several threads."""

    def refusal(self, prompt: str) -> str | None:
        """Why a prompt is refused, as a sentence for its author; None if it is not."""
        ...


class NoChecker:
    """Refuses nothing."""

    def refusal(self, prompt: str) -> str | None:
        return None


class WordList:
    """Refuses whole words and phrases, however they are written: case, accents, signs in place of letters."""

    def __init__(self, lines: Iterable[str]) -> None:
        """lines: a word or phrase each, or several that are refused together only, "a + b"; # begins a comment."""
        rules = [line.partition("#")[0].strip() for line in lines]
        self._rules = [[_words(part) for part in rule.split("+")] for rule in rules if rule]

    def refusal(self, prompt: str) -> str | None:
        said = {f" {_words(prompt)} ", f" {_words(prompt.translate(LOOK_ALIKES))} "}
        if any(all(f" {part} " in text for part in rule) for rule in self._rules for text in said):
            return "the prompt asks for something that this server does not generate"
        return None


class CheckerUnavailable(Exception):
    """Prompts cannot be checked, so none is generated; the text says why."""


class ModelChecker:
    """Asks ShieldGemma, which is loaded when the first prompt comes."""

    def __init__(self, source: str, device: str | None) -> None:
        self._source, self._device = source, device
        self._lock = threading.Lock()
        self._model: ShieldGemma | None = None

    def refusal(self, prompt: str) -> str | None:
        with self._lock:
            if self._model is None:
                self._model = self._loaded()
            about = self._model.violated(prompt)
        return None if about is None else f"the prompt asks for something that this server does not generate: {about}"

    def _loaded(self) -> ShieldGemma:
        from hart.devices import resolve_device
        from hart.networks.shield_gemma import ShieldGemma

        try:
            return ShieldGemma(self._source, resolve_device(self._device))
        except HartError as error:
            raise CheckerUnavailable(f"prompts cannot be checked: {error}") from None


def prompt_checker(name: str, device: str | None = None) -> PromptChecker:
    """words, none, a text file of words, or the folder or hub id of a ShieldGemma model. Raises `HartError`."""
    if name == "none":
        return NoChecker()
    if name == "words" or name.endswith(".txt"):
        return WordList(text_lines(read_text(BUILT_IN if name == "words" else user_path(name))))
    if is_model(name):
        return ModelChecker(name, device)
    raise HartError(f"--prompt-check {name}: choose words, none, a text file, or a ShieldGemma model")


def is_model(name: str) -> bool:
    """Whether a name that `prompt_checker` takes is a model's: its folder or hub id."""
    if name in BUILT_IN_CHECKS or name.endswith(".txt"):
        return False
    if user_path(name).is_dir():
        return True
    from hart.checkpoint.hub import is_hub_id

    return is_hub_id(name)


def _words(text: str) -> str:
    """Letters and digits without accents in lower case, words with one space between them."""
    kinds = ((c, unicodedata.category(c)) for c in unicodedata.normalize("NFKD", text))
    plain = "".join(c for c, kind in kinds if kind[0] != "M" and kind != "Cf")  # neither marks nor zero-width signs
    return " ".join(re.findall(r"[^\W_]+", plain.casefold()))
