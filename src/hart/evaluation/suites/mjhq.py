"""MJHQ-30K (Playground, 2023): 30,000 prompts with an image each, in 10 categories, as published.

meta_data.json                 {ID: {"category": ..., "prompt": ...}}
mjhq30k_imgs/CATEGORY/ID.jpg   or mjhq30k_imgs.zip
"""

from __future__ import annotations

from pathlib import Path

from hart.errors import HartError
from hart.evaluation.generated_images import evenly_chosen
from hart.evaluation.published_files import HUB_DATASETS, PublishedFiles, PublishedImages, hub_dataset
from hart.evaluation.report import Result, published_tables
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import MJHQ_SIZE, MjhqOptions
from hart.evaluation.suites.text_to_image import CATEGORY, Benchmark, measure
from hart.files import TEXT_LIMIT, FileError, parse_json, read_bytes, user_path
from hart.strict import counted

REPOSITORY = "playgroundai/MJHQ-30K"
ADDRESS = f"{HUB_DATASETS}{REPOSITORY}"
PROMPTS_FILE, IMAGES, ARCHIVE = "meta_data.json", "mjhq30k_imgs", "mjhq30k_imgs.zip"
COUNT, CATEGORIES = 30_000, 10


def open_mjhq(folder: Path | None, limit: int | None, seed: int, reference_size: int = MJHQ_SIZE) -> Benchmark:
    """Open the set in `folder`; None downloads it once, 9 GB, through the hub.

    limit: prompts to use, as evenly from the categories as possible, chosen by `seed`; None uses all. Generated images
    are compared with all images of the set. Raises `HartError` with the address of what is missing.
    """
    if folder is None:
        instead = f"fetch {PROMPTS_FILE} and {ARCHIVE} there, and give their folder with --data"
        folder = hub_dataset(REPOSITORY, [PROMPTS_FILE, ARCHIVE], instead)
    folder = user_path(folder)
    files = PublishedFiles(folder, IMAGES, ARCHIVE, ADDRESS)
    entries = _read_entries(folder / PROMPTS_FILE)
    categories = [category for _, category, _ in entries]
    rows = evenly_chosen(categories, limit, seed)
    notes: tuple[str, ...] = ()
    if (len(entries), len(set(categories))) != (COUNT, CATEGORIES):
        notes = (
            f"this set has {counted(len(entries), 'image')} (categories: {len(set(categories))}), MJHQ-30K {COUNT:,} "
            f"({CATEGORIES}): nothing here compares with published figures",
        )
    return Benchmark(
        prompts=tuple(entries[row][2] for row in rows),
        categories=tuple(categories[row] for row in rows),
        references=PublishedImages(
            files,
            [f"{category}/{number}.jpg" for number, category, _ in entries],
            [{CATEGORY: category} for category in categories],
        ),
        reference_size=reference_size,
        notes=notes,
        published=(published_tables()["text_to_image"], published_tables()["text_residual_tokens"]),
    )


def _read_entries(file: Path) -> list[tuple[str, str, str]]:
    """Return ID, category and prompt of every image."""
    try:
        entries = parse_json(read_bytes(file, TEXT_LIMIT), str(file))
    except FileError as error:
        raise HartError(f"{error}: fetch it from {ADDRESS}") from None
    try:
        return [(str(number), str(entry["category"]), str(entry["prompt"])) for number, entry in entries.items()]
    except (AttributeError, KeyError, TypeError):
        raise HartError(f"{file}: not every entry has a category and a prompt: fetch it from {ADDRESS}") from None


def run(context: Context[MjhqOptions]) -> Result:
    """Measure. Raises `HartError`."""
    options = context.options
    return measure(context, open_mjhq(options.data, options.limit, options.seed, options.reference_size))
