"""Refusing prompts. Checkers run before anything is sampled; a refusal is reported, and prompts are never replaced."""

from __future__ import annotations

import logging
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hart.errors import HartError
from hart.files import read_text, text_lines, user_path
from hart.serving.schemas import ApiError
from hart.strict import shown

log = logging.getLogger(__name__)

BUILT_IN = Path(__file__).with_name("refused_words.txt")
LOOK_ALIKES = str.maketrans("013457@$", "oieastas")
"""Characters that stand for letters."""
REFUSED = "the prompt asks for something that this server does not generate"

PromptChecker = Callable[[str], str | None]
"""Returns why a prompt is refused, as a sentence for its author; None if it is not. Called from several threads."""


def word_list(lines: Iterable[str], name: str = "words") -> PromptChecker:
    """Refuse whole words and phrases, however they are written: case, accents, characters in place of letters.

    lines: a word or phrase each, or several that are only refused together, "a + b"; # begins a comment. name: of the
    list, for errors. Raises `HartError` for lines that would refuse nothing, and for a list without any.
    """
    rules = [rule for line in lines if (rule := line.partition("#")[0].strip())]
    parts = [[f" {_words(part)} " for part in rule.split("+")] for rule in rules]
    for rule in rules:
        if not all(map(_words, rule.split("+"))):
            raise HartError(f"--prompt-check {name}: {shown(rule)}: has no word, or none next to a +: write one")
    if not rules:
        raise HartError(f"--prompt-check {name}: holds no words: write one per line, or give none to refuse nothing")

    def refusal(prompt: str) -> str | None:
        said = {f" {_words(text)} " for text in (prompt, prompt.translate(LOOK_ALIKES))}
        return REFUSED if any(all(part in text for part in rule) for rule in parts for text in said) else None

    return refusal


def shield_gemma(source: str, device: str | None) -> PromptChecker:
    """Ask ShieldGemma, which is loaded when the first prompt comes. Raises `ApiError` if it cannot be."""
    lock = threading.Lock()

    @cache
    def model() -> Any:
        from hart.devices import resolve_device
        from hart.networks.shield_gemma import ShieldGemma

        return ShieldGemma(source, resolve_device(device))

    def refusal(prompt: str) -> str | None:
        with lock:
            try:
                about = model().violated(prompt)
            except HartError as error:
                # not sent to clients: it may name paths of this machine
                log.error("prompts cannot be checked: %s", error)
                said = "prompts cannot be checked; the server's log says why"
                raise ApiError(503, said, code="model_unavailable") from None
        return None if about is None else f"{REFUSED}: {about}"

    return refusal


def prompt_checker(name: str, device: str | None = None, *, elsewhere: bool = False) -> PromptChecker:
    """Return a checker by name: words, none, a text file of words, or the folder or hub id of a ShieldGemma model that
    exists. elsewhere: other machines read the hub, so errors show at the first prompt. Raises `HartError`."""
    if name == "none":
        return lambda _: None
    if name == "words" or name.endswith(".txt"):
        return word_list(text_lines(read_text(BUILT_IN if name == "words" else user_path(name))), name)
    if (folder := user_path(name)).is_dir():
        if not (folder / "config.json").is_file():
            raise HartError(f"--prompt-check {name}: no model here; expected config.json of ShieldGemma")
        return shield_gemma(name, device)
    from hart.hub import is_hub_id

    if not is_hub_id(name):
        raise HartError(f"--prompt-check {name}: choose words, none, a text file, or a ShieldGemma model")
    if not elsewhere:
        from hart.checkpoint.hub import require_repository

        require_repository(name)
    return shield_gemma(name, device)


def _words(text: str) -> str:
    """Return letters and digits without accents in lower case, words separated by one space."""
    kinds = ((c, unicodedata.category(c)) for c in unicodedata.normalize("NFKD", text))
    plain = "".join(c for c, kind in kinds if kind[0] != "M" and kind != "Cf")  # no marks, no zero-width signs
    return " ".join(re.findall(r"[^\W_]+", plain.casefold()))
