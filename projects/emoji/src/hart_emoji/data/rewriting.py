"""Captions as people type them: short and long sentences, plurals, typing errors."""

from __future__ import annotations

import random

from hart_emoji.data.captions import HEAD_ENDS, with_article
from hart_emoji.data.words import NO_ARTICLE, UNCOUNTABLE

TYPO_CHANCE = 0.06

ONE_THING = (
    *("{name}", "{a}") * 5,
    *(
        "{a} emoji",
        "{name} emoji",
        "an emoji of {a}",
        "one {bare}",
        "the {bare}",
        "a picture of {a}",
        "a drawing of {a}",
    ),
    *("{a}, simple", "{a} on white", "{name} icon", "draw {a}", "please draw {a}", "this is {a}", "i want {a}"),
    *("{a} on a white background", "just {a}", "a nice {bare}", "a little {bare}", "my {bare}", "there is {a}"),
)
"""{name}: without article; {a}: with one; {bare}: after another article. All of them are true of every image."""

PAIR = "a pair of"
"""Not used if the plural is the name of another thing, such as "glasses"."""
NUMBERS = {2: ("two", "2", PAIR), 3: ("three", "3"), 4: ("four", "4"), 5: ("five", "5"), 6: ("six", "6")}

_IRREGULAR = {
    **{"man": "men", "woman": "women", "person": "people", "child": "children", "foot": "feet", "tooth": "teeth"},
    **{"mouse": "mice", "goose": "geese", "ox": "oxen", "leaf": "leaves", "wolf": "wolves", "knife": "knives"},
    **{"snowman": "snowmen", "scarf": "scarves"},
    **{"loaf": "loaves", "potato": "potatoes", "tomato": "tomatoes", "volcano": "volcanoes", "mango": "mangoes"},
    **{word: word for word in ("fish", "sheep", "deer", "shrimp", "squid", "bison", "salmon", "series", "aircraft")},
}
_NEIGHBOURS = dict(zip("abcdefghijklmnopqrstuvwxyz", "snvfrdhjuklknmpowtayiceztx", strict=True))
"""A neighbouring key of each letter on a keyboard."""


def plural(name: str) -> str | None:
    """ "cat" -> "cats", "slice of pizza" -> "slices of pizza"; None for a name that has no plural or is one already."""
    match = HEAD_ENDS.search(name)
    head, rest = (name[: match.start()].rstrip(), name[match.start() - 1 :]) if match else (name, "")
    if not head or name.lower() in NO_ARTICLE:
        return None
    *before, last = head.split()
    lower = last.lower()
    if lower in UNCOUNTABLE or not lower.isalpha() or with_article(name) == name:
        return None
    if lower in _IRREGULAR:
        ending = _IRREGULAR[lower]
    elif lower.endswith(("s", "x", "z", "ch", "sh")):
        ending = lower + "es"
    elif lower.endswith("y") and lower[-2:-1] not in tuple("aeiou"):
        ending = lower[:-1] + "ies"
    else:
        ending = lower + "s"
    return " ".join([*before, ending]) + rest


def one_thing(name: str, rng: random.Random) -> str:
    """Return a caption of a single thing with this name."""
    article = with_article(name)
    # "the sun", "my skis", but not "my flag of ..." with its own article
    template = rng.choice(ONE_THING)
    if article.startswith("the ") and "{bare}" in template:
        template = "{a}"
    if article == name and "one {bare}" in template:
        template = "{a}"
    return template.format(name=name, a=article, bare=name)


def with_typo(text: str, rng: random.Random) -> str:
    """Make one typing error in a longer word: swap two letters, drop or double one, or hit a neighbouring key."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    i = rng.choice(long)
    word = words[i]
    at = rng.randrange(1, len(word) - 1)
    match rng.randrange(4):
        case 0:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case 1:
            word = word[:at] + word[at + 1 :]
        case 2:
            word = word[:at] + word[at] + word[at:]
        case _:
            word = word[:at] + _NEIGHBOURS.get(word[at].lower(), word[at]) + word[at + 1 :]
    words[i] = word
    return " ".join(words)


def sometimes_mistyped(text: str, rng: random.Random) -> str:
    return with_typo(text, rng) if rng.random() < TYPO_CHANCE else text
