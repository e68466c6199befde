"""Decides for each image whether it is held out, how much it weighs and where it is stored.

Every choice hashes `SEED` and a name, never a position, so adding icons changes nothing for the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from hart_emoji.data.captions import DEFAULT_STYLE, Keywords, mentions, plain_names
from hart_emoji.data.catalogue import Concept, Icon, drawing

SEED = 0
"""Seed of all choices. Another seed would hold out different images than the shipped model's data set does."""
HELD_OUT_STYLES = 0.03
"""Share of (concept, style) pairs."""
HELD_OUT_TONES = 0.04
"""Share of (concept, skin tone) pairs."""
HELD_OUT_KEYWORDS = 0.05
TONED_TOTAL = 1.5
"""Total weight of an image and its skin tones; an image without skin tones weighs 1."""
FLAG_WEIGHT = 0.3
GUESS_WEIGHT = 0.5
"""Factor for an icon whose name had to be guessed from unspaced words."""

SPLIT_RULE = (
    "By SHA-256 of (seed, kind, key). 'style': an image of a concept in one style, with all its skin tones, where the "
    "concept stays in training in another style. 'tone': a skin tone of a concept, in every style, where the concept "
    "has three tones or more. Drawings that two concepts share are never held out. Keywords in held_out_keywords are "
    "in no training caption."
)


@dataclass(frozen=True)
class PlannedImage:
    """An icon and how the data set uses it.

    key: unique, valid as a file name. held_out: why the image is held out, or None if it is for training.
    """

    key: str
    icon: Icon
    held_out: Literal["style", "tone"] | None
    weight: float


def plan_images(icons: Sequence[Icon]) -> list[PlannedImage]:
    """Return every image with its split and weight, in a shuffled order that makes shards alike."""
    shared = _shared_drawings(icons)
    held_styles = _held_out_styles(icons, shared)
    held_tones = _held_out_tones(icons, shared)
    tones = Counter((icon.concept.slug, icon.style) for icon in icons if icon.tone)
    images = []
    for icon in icons:
        slug, style, tone = icon.concept.slug, icon.style, icon.tone
        held_out: Literal["style", "tone"] | None = None
        if (slug, style) in held_styles:
            held_out = "style"
        elif (slug, tone) in held_tones:
            held_out = "tone"
        weight = 1.0
        if count := tones[slug, style]:
            # The plain image takes a third: most prompts name no skin tone.
            weight = TONED_TOTAL * (2 / 3 / count if tone else 1 / 3)
        if icon.concept.group == "flags":
            weight *= FLAG_WEIGHT
        if not icon.certain:
            weight *= GUESS_WEIGHT
        key = "-".join(part for part in (style, slug, tone) if part)
        images.append(PlannedImage(key, icon, held_out, round(weight, 4)))
    return sorted(images, key=lambda image: _chance("order", image.key))


def held_out_keywords(concepts: Collection[Concept]) -> dict[str, list[str]]:
    """Return keywords that no training caption uses -> the concepts they belong to, both sorted.

    Only words that could stand alone and that occur in no concept's name are held out.
    """
    allowed = Keywords(concepts)
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for concept in concepts:
        for word in allowed.standing_alone(concept):
            owners[word].append(concept.slug)
    picked = {word for word in owners if _chance("keyword", word) < HELD_OUT_KEYWORDS}
    names = [name for concept in concepts for name in plain_names(concept)]
    in_names = {word for word in picked for name in names if mentions(name, frozenset({word}))}
    return {word: sorted(owners[word]) for word in sorted(picked - in_names)}


def _chance(kind: str, key: str) -> float:
    """Return a fixed number in [0, 1) for this key."""
    digest = hashlib.sha256(f"{SEED}|{kind}|{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _shared_drawings(icons: Sequence[Icon]) -> set[tuple[str, str]]:
    """Return the (concept, style) pairs that share a drawing with another concept in the same style."""
    owners: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for icon in icons:
        owners[icon.style, drawing(icon.svg)].add(icon.concept.slug)
    return {(slug, style) for (style, _), slugs in owners.items() if len(slugs) > 1 for slug in slugs}


def _held_out_styles(icons: Sequence[Icon], shared: set[tuple[str, str]]) -> set[tuple[str, str]]:
    styles: defaultdict[str, set[str]] = defaultdict(set)
    for icon in icons:
        styles[icon.concept.slug].add(icon.style)
    held = set()
    for slug, names in styles.items():
        chance = {style: _chance("style", f"{style}/{slug}") for style in names}
        free = sorted((style for style in names if (slug, style) not in shared), key=lambda style: chance[style])
        # At least one style of the concept always stays in training.
        held |= {(slug, style) for style in free[: len(names) - 1] if chance[style] < HELD_OUT_STYLES}
    return held


def _held_out_tones(icons: Sequence[Icon], shared: set[tuple[str, str]]) -> set[tuple[str, str | None]]:
    tones: defaultdict[str, set[str]] = defaultdict(set)
    for icon in icons:
        if icon.tone:
            tones[icon.concept.slug].add(icon.tone)
    shared_concepts = {slug for slug, _ in shared}
    return {
        (slug, tone)
        for slug, known in tones.items()
        if len(known) >= 3 and slug not in shared_concepts
        for tone in known
        if _chance("tone", f"{slug}/{tone}") < HELD_OUT_TONES
    }


def with_default_share(weights: Sequence[float], icons: Sequence[Icon], share: float) -> list[float]:
    """Return chances, at most 1, with which `share` of the chosen icons are in the default style."""
    default = [icon.style == DEFAULT_STYLE for icon in icons]
    own = sum(weight for weight, right in zip(weights, default, strict=True) if right)
    factor = share / (1 - share) * (sum(weights) - own) / own
    chances = [weight * factor if right else weight for weight, right in zip(weights, default, strict=True)]
    most = max(chances)
    return [chance / most for chance in chances]
