"""Builds the emoji data set: open emoji sets rendered with captions, as WebDataset shards.

The pinned packages and the size determine everything: the same call gives the same files.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import resvg_py
from PIL import Image

from hart import HartError
from hart.data import begin_set, finish_set
from hart.evaluation import Progress
from hart.files import atomic_write, default_cache, write_json
from hart_emoji.data.captions import Keywords, captions, plain_names
from hart_emoji.data.catalogue import Icon, IconSet, catalogue
from hart_emoji.data.npm import NpmPackage, fetch_package, read_json
from hart_emoji.data.plan import SEED, SPLIT_RULE, PlannedImage, held_out_keywords, plan_images

BUILDER_VERSION = 4
"""Part of the fingerprint: increased whenever the same packages and size would give different files."""
SHARD_SIZE = 1000


@dataclass(frozen=True)
class Style:
    """One icon set. word: its name in captions. licence: SPDX identifier. author: whom to credit."""

    package: NpmPackage
    word: str
    licence: str
    author: str


STYLES: dict[str, Style] = {
    "noto": Style(NpmPackage("@iconify-json/noto", "1.2.9"), "noto", "Apache-2.0", "Google"),
    "noto-v1": Style(NpmPackage("@iconify-json/noto-v1", "1.2.5"), "old noto", "Apache-2.0", "Google"),
    "twemoji": Style(NpmPackage("@iconify-json/twemoji", "1.2.5"), "twemoji", "CC-BY-4.0", "Twitter and contributors"),
    "fluent-emoji": Style(NpmPackage("@iconify-json/fluent-emoji", "1.2.7"), "fluent", "MIT", "Microsoft"),
    "fluent-emoji-flat": Style(
        NpmPackage("@iconify-json/fluent-emoji-flat", "1.2.6"), "flat fluent", "MIT", "Microsoft"
    ),
    "emojione": Style(NpmPackage("@iconify-json/emojione", "1.2.3"), "emoji one", "CC-BY-4.0", "EmojiOne"),
    "fxemoji": Style(NpmPackage("@iconify-json/fxemoji", "1.2.2"), "firefox", "Apache-2.0", "Mozilla"),
}
"""Style name (as in the records) -> where it comes from."""

NAMES = NpmPackage("emojibase-data", "17.0.0")
KEYWORDS = NpmPackage("emojilib", "4.0.3")
WORD_LICENCES = {NAMES: "MIT", KEYWORDS: "MIT"}
PACKAGES = [*(style.package for style in STYLES.values()), NAMES, KEYWORDS]
"""Everything that the set is made from."""
SHORT_CODES = ("github", "iamcal", "emojibase", "joypixels")


@dataclass(frozen=True)
class EmojiSummary:
    """Contents of the directory.

    train, val: number of images. skipped: icons that are blank or cannot be rendered. reused: nothing had to be built.
    """

    directory: Path
    train: int
    val: int
    skipped: int
    concepts: int
    reused: bool


def build_emoji(
    directory: Path,
    *,
    size: int = 128,
    cache: Path | None = None,
    progress: Progress | None = None,
    held_out_only: bool = False,
) -> EmojiSummary:
    """Render the emoji sets into `directory`: `train-*.tar`, `val-*.tar`, `concepts.json`, `dataset.json`.

    size: of the images in pixels, 16 to 1024. cache: folder of the npm archives; by default `hart.files.default_cache`.
    held_out_only: leave out the training images, for evaluation at another size.
    A stopped build continues with the first missing shard; a complete one is only checked.
    Each image is a pair of shard members: `<key>.webp` (lossless), and `<key>.json` with captions, concept, style,
    skin_tone, group, weight and held_out (None, "style" or "tone"; see `hart_emoji.data.plan`).
    Raises `HartError` if the size is invalid, the directory holds another data set, or npm fails.
    """
    if not 16 <= size <= 1024:
        raise HartError(f"size {size} is out of range: give 16 to 1024 pixels")
    report = progress or (lambda done, total, what: None)
    splits = ("val",) if held_out_only else ("train", "val")
    fingerprint = _fingerprint(size, splits)
    if (finished := begin_set(directory, fingerprint)) is not None:
        return _summary(directory, finished)

    icons = read_icons(cache or default_cache(), report)
    concepts = {icon.concept.slug: icon.concept for icon in icons}
    withheld = held_out_keywords(concepts.values())
    keywords = Keywords(concepts.values(), withheld)
    images = plan_images(icons)
    counts, skipped = _write_shards(directory, images, splits, keywords, size, report)
    write_json(directory / "concepts.json", _concept_table(images, keywords, withheld))
    finish_set(
        directory,
        fingerprint,
        {
            "name": "hart emoji",
            "size": size,
            "seed": SEED,
            "counts": counts,
            "skipped": skipped,
            "concepts": len(concepts),
            "held_out": Counter(image.held_out for image in images if image.held_out),
            "split_rule": SPLIT_RULE,
            "held_out_keywords": withheld,
            "styles": {
                name: {
                    "package": style.package.name,
                    "version": style.package.version,
                    "word": style.word,
                    "licence": style.licence,
                    "author": style.author,
                    "images": sum(image.icon.style == name for image in images),
                }
                for name, style in STYLES.items()
            },
            "words": {p.name: {"version": p.version, "licence": licence} for p, licence in WORD_LICENCES.items()},
        },
    )
    return EmojiSummary(directory, counts["train"], counts["val"], skipped, len(concepts), reused=False)


def layer_of(svg: str, size: int) -> Image.Image | None:
    """Render an SVG document as RGBA, as large as fits into (size, size) in its own proportions; None if invalid."""
    try:
        # resvg takes width and height as limits and keeps the proportions.
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    except ValueError:
        return None
    return Image.open(io.BytesIO(png)).convert("RGBA")


def render(svg: str, size: int) -> Image.Image | None:
    """Render an SVG document on white, centred, as large as fits into (size, size); None if invalid or blank."""
    layer = layer_of(svg, size)
    if layer is None:
        return None
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(layer, ((size - layer.width) // 2, (size - layer.height) // 2))
    image = canvas.convert("RGB")
    # getcolors returns None if an image has more colours than one: such an image is not blank.
    return image if image.getcolors(maxcolors=1) is None else None


def _fingerprint(size: int, splits: Sequence[str]) -> str:
    packages = [f"{package.name}@{package.version}" for package in PACKAGES]
    part = [] if "train" in splits else list(splits)
    return hashlib.sha256(json.dumps([BUILDER_VERSION, size, SEED, packages, *part]).encode()).hexdigest()[:16]


def _summary(directory: Path, index: Mapping[str, Any]) -> EmojiSummary:
    """Return the summary of a finished set. Raises `HartError` if part of it is missing."""
    for split, count in index["counts"].items():
        if sum(_shard_length(path) for path in directory.glob(f"{split}-*.tar")) != count:
            raise HartError(f"{directory}: {split} shards are missing: delete dataset.json and run again")
    return EmojiSummary(directory, **index["counts"], skipped=index["skipped"], concepts=index["concepts"], reused=True)


def read_icons(cache: Path, report: Progress) -> list[Icon]:
    """Return all icons from the packages in `cache`, fetching missing packages."""
    archives = {}
    for number, package in enumerate(PACKAGES):
        report(number, len(PACKAGES), f"fetching {package.name}")
        archives[package] = fetch_package(package, cache)
    sets: dict[str, IconSet] = {}
    for name, style in STYLES.items():
        report(len(sets), len(STYLES), f"reading {name}")
        icons, chars = read_json(archives[style.package], "icons.json", optional=["chars.json"])
        sets[name] = IconSet(icons["icons"], icons.get("aliases", {}), chars or {}, icons)
    tables = [f"en/shortcodes/{table}.json" for table in SHORT_CODES]
    entries, *short_codes = read_json(archives[NAMES], "en/data.json", optional=tables)
    (keywords,) = read_json(archives[KEYWORDS], "dist/emoji-en-US.json")
    return catalogue(sets, entries, keywords, [table for table in short_codes if table])


def _write_shards(
    directory: Path,
    images: Sequence[PlannedImage],
    splits: Sequence[str],
    keywords: Keywords,
    size: int,
    report: Progress,
) -> tuple[dict[str, int], int]:
    """Write the missing shards; return the number of images per split, and of icons that were skipped."""
    counts = {"train": 0, "val": 0}
    done = 0
    parts = {split: [item for item in images if (item.held_out is not None) == (split == "val")] for split in splits}
    total = sum(len(chosen) for chosen in parts.values())
    for split, chosen in parts.items():
        for start in range(0, len(chosen), SHARD_SIZE):
            part = chosen[start : start + SHARD_SIZE]
            path = directory / f"{split}-{start // SHARD_SIZE:04d}.tar"
            if not path.is_file():
                told = _told(part, report, done, total, f"rendering {split}")
                atomic_write(path, partial(_write_shard, images=told, keywords=keywords, size=size))
            done += len(part)
            counts[split] += _shard_length(path)
    report(done, total, "done")
    return counts, total - sum(counts.values())


def _told(images: Iterable[PlannedImage], report: Progress, done: int, total: int, what: str) -> Iterator[PlannedImage]:
    """Yield the same images, reporting progress before each."""
    for number, image in enumerate(images):
        report(done + number, total, what)
        yield image


def _write_shard(file: BinaryIO, images: Iterable[PlannedImage], keywords: Keywords, size: int) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for image in images:
            _add_image(tar, image, keywords, size)


def _add_image(tar: tarfile.TarFile, image: PlannedImage, keywords: Keywords, size: int) -> None:
    icon = image.icon
    rendered = render(icon.svg, size)
    if rendered is None:
        return
    encoded = io.BytesIO()
    rendered.save(encoded, "WEBP", lossless=True, quality=50, method=2)
    rng = random.Random(f"{SEED}|captions|{image.key}")
    record = {
        "captions": captions(icon.concept, STYLES[icon.style].word, icon.tone, keywords, rng),
        "concept": icon.concept.slug,
        "style": icon.style,
        "skin_tone": icon.tone,
        "group": icon.concept.group,
        "weight": image.weight,
        "held_out": image.held_out,
    }
    for suffix, data in (("webp", encoded.getvalue()), ("json", json.dumps(record).encode())):
        member = tarfile.TarInfo(f"{image.key}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _shard_length(path: Path) -> int:
    try:
        with tarfile.open(path) as tar:
            return sum(name.endswith(".webp") for name in tar.getnames())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise HartError(f"{path} is damaged ({error}): delete it and dataset.json, and run again") from error


def _concept_table(
    images: Iterable[PlannedImage], keywords: Keywords, withheld: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return concept -> names, keywords, styles and skin tones, for evaluation."""
    table: dict[str, Any] = {}
    for image in sorted(images, key=lambda image: image.key):
        concept = image.icon.concept
        entry = table.setdefault(
            concept.slug,
            {
                "names": plain_names(concept),
                "group": concept.group,
                "keywords": keywords.standing_alone(concept),
                "held_out_keywords": [word for word in concept.keywords if concept.slug in withheld.get(word, ())],
                "styles": [],
                "held_out_styles": [],
                "skin_tones": [],
                "held_out_skin_tones": [],
            },
        )
        if image.icon.tone is None:
            kind, value = "styles", image.icon.style
        else:
            kind, value = "skin_tones", image.icon.tone
        held_out = image.held_out == ("style" if kind == "styles" else "tone")
        listed = entry[f"held_out_{kind}" if held_out else kind]
        if value not in listed:
            listed.append(value)
    return table
