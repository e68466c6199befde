"""Prompts with known right answers, in groups by what the model has seen of them in training."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from hart import HartError
from hart.evaluation import evenly_chosen
from hart.files import read_toml
from hart_emoji.data.captions import with_article
from hart_emoji.suites.emoji_set import EmojiSet

LEFT_OUT = frozenset({"flags", "symbols"})
"""Groups of concepts that are not asked for, since they have hundreds of look-alikes."""


@dataclass(frozen=True)
class EmojiPrompt:
    """A prompt and its right answers.

    accepted: numbers of the right concepts; empty if no emoji shows it. rendering: the image of the set that the text
    fully describes, or None.
    """

    text: str
    accepted: tuple[int, ...]
    rendering: int | None = None


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind. key: for file names; title: for tables.

    held_out: what the model has not seen together with the prompts' concepts in training; None if it has seen all.
    """

    key: str
    title: str
    prompts: tuple[EmojiPrompt, ...]
    held_out: Literal["style", "tone"] | None = None

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def renderings(self) -> list[int]:
        """Images of the set that prompts fully describe."""
        return [prompt.rendering for prompt in self.prompts if prompt.rendering is not None]


def seen_names(emoji: EmojiSet, limit: int, seed: int) -> PromptGroup:
    """Return concept names as in training captions, chosen by `seed`. Their renderings prefer the default style."""
    renderings = emoji.renderings()
    pool = [number for number in sorted(renderings) if emoji.entry(number).group not in LEFT_OUT]
    random.Random(seed).shuffle(pool)
    prompts = [
        EmojiPrompt(with_article(emoji.entry(number).names[0]), (number,), renderings[number])
        for number in pool[:limit]
    ]
    return PromptGroup("names", "names seen", tuple(prompts))


def unseen_synonyms(emoji: EmojiSet, limit: int, seed: int) -> PromptGroup:
    """Return keywords that are in no training caption, each alone; every concept that has the keyword is right."""
    owners: defaultdict[str, list[int]] = defaultdict(list)
    for slug in emoji.slugs:
        for word in emoji.concepts[slug].held_out_keywords:
            owners[word].append(emoji.number[slug])
    pool = [word for word in sorted(owners) if any(emoji.entry(n).group not in LEFT_OUT for n in owners[word])]
    random.Random(seed).shuffle(pool)
    prompts = [EmojiPrompt(word, tuple(owners[word])) for word in pool[:limit]]
    return PromptGroup("synonyms", "synonyms never seen", tuple(prompts))


def unseen_styles(emoji: EmojiSet, limit: int, seed: int, left_out: frozenset[str] = LEFT_OUT) -> PromptGroup:
    """Return prompts for held-out images without skin tone: concepts in a style not seen in training."""
    pool = [row for row, why in enumerate(emoji.held_out) if why == "style" and emoji.tone[row] is None]
    prompts = _described(emoji, pool, limit, seed, left_out)
    return PromptGroup("styles", "style x concept never seen", prompts, "style")


def unseen_tones(emoji: EmojiSet, limit: int, seed: int) -> PromptGroup:
    """Return prompts for held-out skin tones of concepts, which training has not seen in any style."""
    pool = [row for row, why in enumerate(emoji.held_out) if why == "tone"]
    prompts = _described(emoji, pool, limit, seed, LEFT_OUT)
    return PromptGroup("tones", "skin tone x concept never seen", prompts, "tone")


def free_prompts(emoji: EmojiSet, file: Path, limit: int, seed: int) -> PromptGroup:
    """Return prompts of a TOML file, as evenly from its tables as possible: [table] "prompt" = ["concept slug", ...].

    An empty list means that no emoji is right: an image is generated but not ranked. Raises `HartError` if the file
    has another format, or names a concept that the set does not have.
    """
    tables, texts, slugs = [], [], []
    for table, entries in read_free_prompts(file).items():
        for text, accepted in entries.items():
            if unknown := [slug for slug in accepted if slug not in emoji.number]:
                raise HartError(f"{file}: {text!r}: the set has no concept {unknown[0]!r}: fix its name")
            tables.append(table)
            texts.append(text)
            slugs.append(accepted)
    rows = evenly_chosen(tables, limit, seed)
    prompts = [EmojiPrompt(texts[row], tuple(emoji.number[slug] for slug in slugs[row])) for row in rows]
    return PromptGroup("free", "free prompts", tuple(prompts))


def read_free_prompts(file: Path) -> dict[str, dict[str, list[str]]]:
    """Return table -> prompt -> slugs of the right concepts. Raises `HartError` if the file has another format."""
    try:
        return TypeAdapter(dict[str, dict[str, list[str]]]).validate_python(read_toml(file))
    except ValidationError:
        raise HartError(f'{file}: give tables of "prompt" = ["concept", ...]') from None


def _described(
    emoji: EmojiSet, pool: Sequence[int], limit: int, seed: int, left_out: frozenset[str]
) -> tuple[EmojiPrompt, ...]:
    """Return prompts that give the concept, style and skin tone of images, worded like captions."""
    rows = [row for row in pool if emoji.entry(int(emoji.concept[row])).group not in left_out]
    random.Random(seed).shuffle(rows)
    return tuple(EmojiPrompt(description(emoji, row), (int(emoji.concept[row]),), row) for row in rows[:limit])


def description(emoji: EmojiSet, row: int) -> str:
    """Describe an image: "a cat face in twemoji style", "a waving hand in noto style with medium dark skin"."""
    name, tone = emoji.entry(int(emoji.concept[row])).names[0], emoji.tone[row]
    text = styled(emoji, with_article(name), emoji.style[row])
    return text if tone is None else f"{text} with {tone.replace('-', ' ')} skin"


def styled(emoji: EmojiSet, text: str, style: str) -> str:
    """Add a style to the text, as captions do."""
    return f"{text} in {emoji.style_words[style]} style"
