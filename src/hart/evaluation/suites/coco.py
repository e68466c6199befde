"""COCO-30K: 30,000 captions of COCO's val2014 (Lin et al., 2014), as published.

    annotations/captions_val2014.json   or annotations_trainval2014.zip
    val2014/COCO_val2014_NUMBER.jpg     or val2014.zip

No list of captions is published: everybody samples their own 30,000. Here each belongs to a different image, sampled by
the seed. Generated images are compared at 256 px with all 40,504 of the set.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from hart.errors import HartError
from hart.evaluation.metrics.figures import require_available
from hart.evaluation.published_files import PublishedFiles, PublishedImages, cached_file
from hart.evaluation.report import Result
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import TextToImageOptions
from hart.evaluation.suites.text_to_image import Benchmark, measure
from hart.files import FileError, parse_json, user_path
from hart.strict import counted, reason

HOME = "http://images.cocodataset.org/"
TEXTS, TEXTS_ARCHIVE = "annotations", "annotations_trainval2014.zip"
TEXTS_ADDRESS = f"{HOME}annotations/{TEXTS_ARCHIVE}"
CAPTIONS_FILE = "captions_val2014.json"
IMAGES, ARCHIVE = "val2014", "val2014.zip"
IMAGES_ADDRESS = f"{HOME}zips/{ARCHIVE}"
IMAGE_SIZE = 256
COUNT, OF_IMAGES = 30_000, 40_504


def open_coco(folder: Path | None, limit: int | None, seed: int) -> Benchmark:
    """Open the set in `folder`; None downloads it once, 6.5 GB.

    limit: captions to use; None means 30,000. Raises `HartError` with the address of what is missing.
    """
    if folder is None:
        instead = f"fetch {TEXTS_ARCHIVE} and {ARCHIVE} elsewhere, and give the folder that holds both with --data"
        cached_file(TEXTS_ADDRESS, instead)
        folder = cached_file(IMAGES_ADDRESS, instead).parent
    folder = user_path(folder)
    texts = PublishedFiles(folder, TEXTS, TEXTS_ARCHIVE, TEXTS_ADDRESS)
    images = PublishedFiles(folder, IMAGES, ARCHIVE, IMAGES_ADDRESS)
    names, captions = _read_captions(texts)
    generator = random.Random(seed)
    captioned = sorted(captions)
    count = min(COUNT, len(captioned)) if limit is None else limit
    require_available(count, len(captioned), " with captions")
    chosen = generator.sample(captioned, count)
    notes = ["which captions others sampled is not known; these are this project's own sample, by the seed"]
    if len(names) != OF_IMAGES:
        notes.append(
            f"this set has {counted(len(names), 'image')}, val2014 {OF_IMAGES:,}: compare with no published figure"
        )
    return Benchmark(
        prompts=tuple(generator.choice(captions[number]) for number in chosen),
        categories=(),
        references=PublishedImages(images, [names[number] for number in sorted(names)]),
        reference_size=IMAGE_SIZE,
        generated_size=IMAGE_SIZE,
        notes=tuple(notes),
    )


def _read_captions(texts: PublishedFiles) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Return the file of every image, and the captions of those that have any, by image number."""
    where = f"{texts.place}: {CAPTIONS_FILE}"
    try:
        values = parse_json(texts.read(CAPTIONS_FILE), CAPTIONS_FILE)
    except FileError as error:
        raise HartError(f"{where}: cannot be read ({reason(error)}): fetch it from {TEXTS_ADDRESS}") from None
    captions: dict[int, list[str]] = defaultdict(list)
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in values["images"]}
        for annotation in values["annotations"]:
            if caption := str(annotation["caption"]).strip():
                captions[int(annotation["image_id"])].append(caption)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise HartError(f"{where}: not in the form of COCO's captions: fetch it from {TEXTS_ADDRESS}") from None
    return names, captions


def run(context: Context[TextToImageOptions]) -> Result:
    """Measure. Raises `HartError`."""
    options = context.options
    return measure(context, open_coco(options.data, options.limit, options.seed))
