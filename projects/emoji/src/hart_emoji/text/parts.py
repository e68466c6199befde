"""Words for things that captions have only together with others: `parts` of `known_words.json`.

The model has "kitchen" from knives and cooks, and draws no kitchen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from hart.text_encoder import KnownWords
from hart_emoji.data.captions import head_of
from hart_emoji.text.senses import Senses, thing_share
from hart_emoji.text.thesaurus import THING_SHARE

SHORTEST = 3
"""Letters of a word. WordNet has "or" for Oregon."""


def find_parts(
    known: KnownWords, captions: Iterable[str], anywhere: Iterable[str], senses: Senses
) -> Mapping[str, tuple[str, ...]]:
    """The words with those beside them, the most frequent first.

    anywhere: texts with words that stand beside any thing, such as colours.
    """
    common = KnownWords.of(anywhere, ()).words
    alone = set[str]()
    beside = defaultdict[str, Counter[str]](Counter)
    for text in captions:
        words = KnownWords.of([text], ()).words - common
        if len(words) == 1:
            alone |= words
        for word in words:
            beside[word].update(words - {word})
    alone.update([one for word in alone for one in known.singulars(word)])
    return {
        word: tuple(sorted(others, key=lambda other: (-others[other], other)))
        for word, others in sorted(beside.items())
        if len(word) >= SHORTEST
        and alone.isdisjoint([word, *known.singulars(word)])
        and thing_share(senses(word)) >= THING_SHARE
    }


def only_modifies(noun: str, names: Sequence[str]) -> bool:
    """Whether a noun that is a part of some of a thing's names heads none of them: "kitchen" of "kitchen knife".

    Stricter than `hart_emoji.data.plain.may_mean`: "blood" may caption a drop of blood, but whoever asks for "blood"
    alone is told that captions have it only beside other words.
    """
    words = noun.split()
    longer = [name.lower() for name in names if set(words) < set(name.lower().split())]
    heads = (head_of(name).split() for name in longer)
    return bool(longer) and not any(head[-len(words) :] == words for head in heads)
