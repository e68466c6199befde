"""A tiny stand-in for the npm packages: a few icons in every set, with names as the real ones write them; and the
concepts of the real ones."""

from __future__ import annotations

import io
import json
import tarfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from hart_emoji.data.build import KEYWORDS, NAMES, STYLES
from hart_emoji.data.catalogue import slugify
from hart_emoji.data.npm import NpmPackage

TONE_CODES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
TONE_NAMES = ("light", "medium-light", "medium", "medium-dark", "dark")
FRUIT = ("red apple", "green apple", "pear", "peach", "lemon", "melon", "mango", "kiwi fruit", "cherries", "grapes")


def disc(colour: str, radius: float = 6) -> dict[str, Any]:
    return {"body": f'<circle cx="8" cy="8" r="{radius}" fill="{colour}"/>'}


def write_package(cache: Path, package: NpmPackage, files: dict[str, Any]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(cache / package.archive_name, "w:gz") as tar:
        for name, value in files.items():
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_wordnet(folder: Path, files: dict[str, str]) -> Path:
    """WordNet's database files, below their licence."""
    for name, content in files.items():
        (folder / name).write_text(f"  1 This software and database is being provided to you\n{content}")
    return folder


def entries() -> list[dict[str, Any]]:
    """emojibase's list: some fruit, a cat face, a hand with skin tones, a flag, and a component."""
    listed = [
        {"label": label, "hexcode": f"1F{number:03X}", "emoji": chr(0x1F000 + number), "group": 4, "tags": ["fruit"]}
        for number, label in enumerate(FRUIT)
    ]
    listed[0]["tags"] = ["fruit", "teacher"]
    listed.append({"label": "cat face", "hexcode": "1F431", "emoji": "🐱", "group": 3, "tags": ["kitten", "pet"]})
    skins = [
        {"label": f"waving hand: {name} skin tone", "hexcode": f"1F44B-{code.upper()}", "tone": number}
        for number, (name, code) in enumerate(zip(TONE_NAMES, TONE_CODES, strict=True), 1)
    ]
    skins.append({"label": "waving hand: light skin tone, dark skin tone", "hexcode": "1F44B-X", "tone": [1, 5]})
    hand = {"label": "waving hand", "hexcode": "1F44B", "emoji": "👋", "group": 1, "tags": ["hello"], "skins": skins}
    listed.append(hand)
    listed.append({"label": "flag: Norway", "hexcode": "1F1F3-1F1F4", "emoji": "🇳🇴", "group": 9, "tags": ["NO"]})
    listed.append({"label": "red hair", "hexcode": "1F9B0", "emoji": "🦰", "group": 2})
    return listed


def icon_set(colour: str) -> dict[str, Any]:
    icons = {label.replace(" ", "-"): disc(colour, 2 + number / 2) for number, label in enumerate(FRUIT)}
    icons |= {"cat-face": disc(colour, 7), "waving-hand": disc("gold", 5), "flag-for-norway": disc(colour, 1)}
    shades = ("#fed", "#edb", "#ca8", "#a76", "#543")
    icons |= {f"waving-hand-{name}-skin-tone": disc(s, 5) for name, s in zip(TONE_NAMES, shades, strict=True)}
    icons |= {"waving-hand-light-skin-tone-dark-skin-tone": disc(colour), "red-hair": disc(colour)}
    icons |= {"old-icon": disc(colour) | {"hidden": True}, "blank-icon": {"body": "<g/>"}}
    return {"prefix": "x", "width": 16, "height": 16, "icons": icons}


def write_packages(folder: Path) -> Path:
    """All the archives that the builder asks for, in `folder`."""
    colours = ("red", "green", "blue", "orange", "purple", "teal", "brown")
    for style, colour in zip(STYLES.values(), colours, strict=True):
        write_package(folder, style.package, {"icons.json": icon_set(colour)})
    write_package(folder, NAMES, {"en/data.json": entries()})
    words = {
        chr(0x1F000): ["red_apple", "fruit", "teacher", "school"],
        "🐱": ["cat_face", "kitten", "meow", ":3"],
        "👋": ["waving_hand", "hello", "goodbye"],
    }
    write_package(folder, KEYWORDS, {"dist/emoji-en-US.json": words})
    return folder


def unicode_concepts() -> set[str]:
    """Slugs of the names of all emoji, as captions have them."""
    names = files("hart.text_encoder").joinpath("emoji_names.txt").read_text(encoding="utf-8").splitlines()
    return {slugify(line.partition("\t")[2]) for line in names}
