"""Encodes single emoji on white under many wordings of their names, most in the default style: what people ask for.

    python recipes/emoji/plain_bank.py data/plain --count 16384 --wordnet /usr/share/wordnet

Beside names, templates and keywords, some captions are nouns of WordNet that the text encoder puts next to a name: they
teach the transformer what lies around the names. Words that the emoji set holds out are in none.
"""

from __future__ import annotations

import argparse
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import typer
from PIL import Image
from torch.nn import functional as F

from hart.data.digests import SetDigest
from hart.data.emoji.build import STYLES
from hart.data.emoji.captions import DEFAULT_STYLE, captions, mentions, plain_names, with_article
from hart.data.emoji.recolour import own_colour
from hart.data.emoji.rewriting import one_thing, sometimes_slipped
from hart.data.emoji.scenes import THINGS, EmojiScenes
from hart.data.transforms import ImageTransform
from hart.files import default_cache
from hart.precompute import EncodeOptions, Encoders, encode_dataset
from hart.text_encoder import load_text_encoder
from hart.text_encoder.base import TextEncoder
from hart.training.conditions import find_text_encoder
from hart.training.starting import load_tokenizer
from hart.training.text_corpus import read_wordnet

SHARD = 1024
TEST_PROMPTS = Path(__file__).with_name("free_prompts.toml")
DEFAULT_SHARE = 0.74
"""Of images in the default style, which words without a style mean."""
GROUP_WEIGHTS = {"symbols": 0.4, "people-body": 0.6, "smileys-emotion": 1.2, "other": 0.5}
NEAREST = 0.62
"""Cosine above which a noun may stand for a name."""
MOST_NOUNS = 6
"""Of one concept."""


class PlainEmoji(EmojiScenes):
    """Single emoji, half of them as the set has them, half slightly moved. nouns: slug -> further words for it."""

    def __init__(self, *args: object, nouns: Mapping[str, Sequence[str]], **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.nouns = nouns
        every = range(len(self.icons))
        self._default = [row for row in every if self.icons[row].style == DEFAULT_STYLE]
        self._other = [row for row in every if self.icons[row].style != DEFAULT_STYLE]
        self.chances = [
            chance * GROUP_WEIGHTS.get(icon.concept.group, 1.0)
            for chance, icon in zip(self.chances, self.icons, strict=True)
        ]

    @property
    def description(self) -> str:
        return f"plain emoji, {self.size} px, seed {self.seed}"

    def digest(self) -> str:
        digest = SetDigest("plain emoji")
        digest.add(super().digest(), *(word for slug in sorted(self.nouns) for word in (slug, *self.nouns[slug])))
        return digest.hexdigest()

    def kind(self, row: int) -> str:
        return "coloured"  # of weight 1

    def scene(self, row: int) -> tuple[Image.Image, tuple[str, ...]]:
        rng = self._generator(row)
        default = rng.random() < DEFAULT_SHARE
        icon = self._chosen(self._default if default else self._other, rng)
        moved = rng.random() < 0.5
        sprite = self._sprite(icon, round(self.size * (rng.uniform(0.88, 1.04) if moved else 1)), 0)
        colour = own_colour(sprite) if icon.concept.group in THINGS else None
        if moved:
            sprite = sprite.rotate(rng.uniform(-5, 5), Image.Resampling.BICUBIC, expand=True)
        shift = 0.04 if moved else 0.0
        image = self._laid((255, 255, 255), [(sprite, *(0.5 + rng.uniform(-shift, shift) for _ in range(2)))])
        names = plain_names(icon.concept)
        nouns = self.nouns.get(icon.concept.slug, ())

        def told() -> str:
            every = captions(icon.concept, STYLES[icon.style].word, icon.tone, self.keywords, rng)
            if icon.tone is not None or (not default and rng.random() < 0.6):
                return rng.choice(every if default else every[1:])
            draw = rng.random()
            if draw < 0.42:
                name = names[0] if rng.random() < 0.5 else rng.choice(names)
                text = name if rng.random() < 0.5 else with_article(name)
            elif draw < 0.62:
                text = one_thing(rng.choice(names), rng)
            elif draw < 0.70 and colour is not None and colour.word:
                text = one_thing(f"{colour.word} {names[0]}" if colour.word not in names[0] else names[0], rng)
            elif draw < 0.88 and nouns:
                noun = rng.choice(nouns)
                text = rng.choice((noun, with_article(noun), one_thing(noun, rng)))
            else:
                text = rng.choice(every)
            return text if default or STYLES[icon.style].word in text else self._styled(text, icon.style, rng)

        texts: list[str] = []
        while len(texts) < 6:
            text = told()
            if text.lower() not in self.barred and not mentions(text, self.keywords.held_out):
                texts.append(sometimes_slipped(text, rng))
        return image, tuple(texts)


def nearest_nouns(
    icons: Sequence[object], encoder: TextEncoder, wordnet: Path, usable: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Slug -> nouns whose nearest name, of all but flags and symbols, is its."""
    names: dict[str, str] = {}
    for icon in icons:
        concept = icon.concept  # type: ignore[attr-defined]
        if concept.group in ("flags", "symbols", "other"):
            continue
        for name in plain_names(concept):
            names.setdefault(name.lower(), concept.slug)
    known = list(names)
    pieces: dict[str, int] = encoder.tokenizer.get_vocab()  # type: ignore[attr-defined]
    rank = {piece: place for piece, place in pieces.items() if piece.isalpha()}
    things = [word for word in read_wordnet(wordnet, rank).things[:12000] if word not in names and usable(word)]

    def embedded(texts: Sequence[str]) -> torch.Tensor:
        parts = [encoder.encode(list(texts[at : at + 256])).embeddings[:, 0] for at in range(0, len(texts), 256)]
        return F.normalize(torch.cat(parts), dim=-1)

    with torch.inference_mode():
        cosine, place = (embedded(things) @ embedded(known).T).max(dim=1)
    found: defaultdict[str, list[tuple[int, float, str]]] = defaultdict(list)
    for word, near, at in zip(things, cosine.tolist(), place.tolist(), strict=True):
        if near >= NEAREST and _fits(word.split(), known[at].split()):
            found[names[known[at]]].append((len(word.split()), -near, word))
    return {slug: [word for _, _, word in sorted(words)[:MOST_NOUNS]] for slug, words in found.items()}


def _fits(noun: Sequence[str], name: Sequence[str]) -> bool:
    """Whether a near noun may mean a name: other words, some of its words, or a kind of it ("house cat")."""
    if set(noun) <= set(name):
        return True
    if not set(noun) & set(name):
        spelt = ("".join(noun), "".join(name))
        return not any(one.startswith(other[:4]) for one, other in (spelt, spelt[::-1]))
    return noun[-1] == name[-1] and len(noun) == 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True, help=f"images, a multiple of {SHARD}")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.model).requires_grad_(False).to(memory_format=torch.channels_last)
    encoder = load_text_encoder(*find_text_encoder(given.model, tokens=0, instruction=False))
    tables = tomllib.loads(TEST_PROMPTS.read_text(encoding="utf-8"))
    barred = {prompt.lower() for prompts in tables.values() for prompt in prompts}
    plain = PlainEmoji(default_cache(), given.count, seed=given.seed, barred=barred, nouns={})
    plain.nouns = nearest_nouns(
        plain.icons,
        encoder,
        given.wordnet,
        lambda word: word not in barred and not mentions(word, plain.keywords.held_out),
    )
    typer.echo(f"{sum(map(len, plain.nouns.values()))} nouns for {len(plain.nouns)} concepts")
    options = EncodeOptions(shard_size=SHARD, batch_size=64)
    encode_dataset(
        plain,
        ImageTransform(plain.size),
        Encoders(tokenizer, encoder, torch.device("cpu")),
        given.folder,
        "train",
        options,
        progress=lambda done, total, what: typer.echo(f"{done}/{total} {what}"),
    )


if __name__ == "__main__":
    main()
