"""Refusing prompts. A checker is asked before anything is sampled; what it refuses is said, never replaced."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from hart.errors import HartError
from hart.files import read_text, user_path

BUILT_IN = Path(__file__).with_name("refused_words.txt")
LOOK_ALIKES = str.maketrans("013457@$!|", "oieastasil")
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
            return "the prompt asks for something that this server does not draw"
        return None


def prompt_checker(name: str, device: str | None = None) -> PromptChecker:
    """words, none, a text file, or a model. Raises `HartError`."""
    if name == "none":
        return NoChecker()
    path = BUILT_IN if name == "words" else user_path(name)
    if path.suffix == ".txt":
        return WordList(read_text(path).splitlines())
    raise HartError(f"--prompt-check {name}: choose words, none or a text file")


def _words(text: str) -> str:
    """Letters and digits without accents in lower case, words with one space between them."""
    kinds = ((c, unicodedata.category(c)) for c in unicodedata.normalize("NFKD", text))
    plain = "".join(c for c, kind in kinds if kind[0] != "M" and kind != "Cf")  # neither marks nor zero-width signs
    return " ".join(re.findall(r"[^\W_]+", plain.casefold()))
