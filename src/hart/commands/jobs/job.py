"""A job: prompts, and everything their images are made with. Its folder holds a file for each image, and `job.json`.
`BatchGenerator` does the work.

An image is identified by its number, from which its prompt, seed and file name follow. Images are made in batches that
depend only on these numbers. So the bytes of a file depend neither on which process makes it nor on existing files.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from hart import __version__
from hart.commands.console import JOB_FILE, slug
from hart.commands.generate import check_size, generator_of, open_model, prompt_mix
from hart.commands.options import GenerateOptions
from hart.errors import HartError
from hart.files import flush_folder, read_json, rename_to_new, write_json
from hart.generation.metadata import BatchPlace, ImageRecord, ImageSettings, read_record, write_image
from hart.sizes import requested_schedule
from hart.strict import clipped, shown

if TYPE_CHECKING:
    from hart.generation.outputs import ScalePreview

IMAGES = "[0-9]" * 5 + "*-*.png"
WORK_FOLDER = ".job"
"""Folder for files that are being written; it can be lost after a stop."""
MOST_ATTEMPTS = 3
"""After this many processes have died on a batch, it is left out."""
OF_IMAGES = ("model", "images_per_prompt", "seed", "batch_size", "best_of", "scorer")
"""Options that determine images besides prompts and `ImageSettings`."""


@dataclass(frozen=True)
class Job:
    """options: with prompts, seed, images per prompt and batch size. settings: of all images, except their batches."""

    options: GenerateOptions
    settings: ImageSettings

    @property
    def count(self) -> int:
        return self.options.count

    def prompt(self, image: int) -> str:
        return self.options.prompts[image // self.options.each]

    def seed(self, image: int) -> int:
        """Return the seed of an image, or the first seed of the candidates among which the best is chosen."""
        return (self.options.seed or 0) + image * self.options.candidates

    def made(self, image: int, record: ImageRecord) -> bool:
        """Return whether a record can be that of an image of this job."""
        seeds = range(self.seed(image), self.seed(image) + self.options.candidates)
        theirs = record.prompt, record.model, record.settings.replace(batch=None)
        return record.seed in seeds and theirs == (self.prompt(image), self.options.model, self.settings)

    def name(self, image: int) -> str:
        """Return the file name of an image: the number of its prompt, some of its words, its seed."""
        return f"{image // self.options.each:05d}-{slug(self.prompt(image))}-{self.seed(image)}.png"

    def there(self, folder: Path) -> int:
        """Return how many files of the job are in a folder, without reading them."""
        return len({self.name(image) for image in range(self.count)} & {path.name for path in folder.iterdir()})

    def batches(self) -> list[range]:
        """Return the numbers of images that are made together."""
        size = self.options.batch_size or 1
        return [range(at, min(at + size, self.count)) for at in range(0, self.count, size)]

    def facts(self) -> dict[str, Any]:
        """Return JSON values that two jobs share only if their images are the same."""
        options = {name: getattr(self.options, name) for name in OF_IMAGES}
        settings = self.settings.to_dict()
        prompts = {f"prompt {number}": prompt for number, prompt in enumerate(self.options.prompts, start=1)}
        facts = {"version": __version__, **options, **settings.pop("sampling"), **settings}
        values: dict[str, Any] = to_jsonable_python({**facts, "number of prompts": len(prompts), **prompts})
        return values


@contextmanager
def begun(folder: Path, job: Job) -> Iterator[None]:
    """Begin a job, or continue it, in a folder held by this process; workers add images to it. Raises `HartError` if
    the folder holds images of another job."""
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    if (image := next(folder.glob(IMAGES), None)) is None:
        write_json(folder / JOB_FILE, job.facts())
    elif (folder / JOB_FILE).exists():
        _require_same(folder, job, read_json(folder / JOB_FILE))
    else:
        raise HartError(f"{image}: no {JOB_FILE} says what it was made with: give another folder by --out")
    (folder / WORK_FOLDER).mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
        if not any(folder.glob(IMAGES)):  # then the record describes no images
            (folder / JOB_FILE).unlink(missing_ok=True)


def _require_same(folder: Path, job: Job, theirs: dict[str, Any]) -> None:
    ours = job.facts()
    if differing := [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]:
        name = differing[0]
        there, given = (clipped(shown(facts.get(name)), 80) for facts in (theirs, ours))
        raise HartError(
            f"{folder}: holds another job ({name.replace('_', ' ')}: {there}, now {given}): "
            "give another folder by --out"
        )


def missing_images(folder: Path, job: Job) -> dict[range, list[int]]:
    """Map batches with missing images to those images. Damaged files are removed. Raises `HartError` for a file that
    was made with something else."""
    with ThreadPoolExecutor() as pool:
        records = list(pool.map(lambda image: _record(folder / job.name(image)), range(job.count)))
    for image, record in enumerate(records):
        if record is not None and not job.made(image, record):
            raise HartError(
                f"{folder / job.name(image)}: was made with something else than this job: remove it, or "
                "give another folder by --out"
            )
    absent = {batch: [image for image in batch if records[image] is None] for batch in job.batches()}
    return {batch: images for batch, images in absent.items() if images}


def _record(path: Path) -> ImageRecord | None:
    """Return a file's record; None if the file is missing or no longer readable."""
    if not path.exists():
        return None
    try:
        return read_record(path)
    except HartError:
        path.unlink()
        return None


class BatchGenerator:
    """Generates batches of a job, in any order, alongside any number of other processes."""

    def __init__(self, folder: Path, job: Job, on_scale: Callable[[ScalePreview], object] | None = None) -> None:
        """Open the model. Raises `HartError` for what it cannot do."""
        self.folder, self.job, self._on_scale = folder, job, on_scale
        self._credentials = job.options.credentials()
        self.pipe = open_model(job.options)
        self._generate = generator_of(self.pipe, job.options)
        schedule, settings = requested_schedule(self.pipe.config, size=job.settings.size), job.settings
        images, mixed = job.count * job.options.candidates, settings.mix is not None
        check_size(self.pipe, schedule, job.options, images, mixed=mixed, sampling=settings.sampling)

    def generate(self, batch: range, missing: Sequence[int]) -> list[str] | None:
        """Generate a batch and write those of its images that are missing; return the names of their files.

        A batch that `MOST_ATTEMPTS` processes have died on is left out; returns None.
        """
        work = self.folder / WORK_FOLDER
        begun = f"begun-{batch.start}-"
        if len(list(work.glob(f"{begun}*"))) >= MOST_ATTEMPTS:
            return None
        mark = work / f"{begun}{secrets.token_hex(8)}"
        mark.touch()
        try:
            return list(self._written(batch, missing))
        finally:
            mark.unlink(missing_ok=True)

    def _written(self, batch: range, missing: Sequence[int]) -> Iterator[str]:
        job = self.job
        prompts = [job.prompt(image) for image in batch]
        output = self._generate(
            prompts,
            negative_prompt=job.options.negative_prompt or None,
            seed=job.seed(batch.start),
            size=job.settings.size,
            batch_size=len(batch),
            sampling=job.settings.sampling,
            mix=prompt_mix(job.settings.mix),
            callback_on_scale=self._on_scale,
        )
        assert job.options.model is not None
        for row, image in enumerate(batch):
            if image not in missing:
                continue
            together = len(batch) > 1 and job.options.best_of is None
            place = BatchPlace(tuple(prompts), job.seed(batch.start), row) if together else None
            settings = job.settings.replace(batch=place)
            record = ImageRecord(prompts[row], output.seeds[row], job.options.model, settings, __version__)
            unfinished = self.folder / WORK_FOLDER / f"{secrets.token_hex(8)}.png"
            write_image(unfinished, output.images[row], record, self._credentials)
            with suppress(FileExistsError):  # a process that died later in this batch has written it
                rename_to_new(unfinished, self.folder / job.name(image))
            yield job.name(image)
        flush_folder(self.folder)
