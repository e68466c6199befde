"""The work of a job: a model that is opened once, and generates batches into the job's folder."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hart import __version__
from hart.commands.generate import (
    check_size,
    generator_of,
    negative_for,
    open_model,
    prompt_mix,
    prompts_for,
)
from hart.commands.jobs.job import MOST_ATTEMPTS, WORK_FOLDER, Job
from hart.files import flush_folder, rename_to_new
from hart.generation.metadata import BatchPlace, ImageRecord, write_image
from hart.generation.outputs import ScalePreview
from hart.sizes import requested_schedule


class BatchGenerator:
    """Generates batches of a job, in any order, beside any number of others."""

    def __init__(self, folder: Path, job: Job, on_scale: Callable[[ScalePreview], object] | None = None) -> None:
        """Opens the model. Raises `HartError` for what it cannot do."""
        self.folder, self.job, self._on_scale = folder, job, on_scale
        self._credentials = job.options.credentials()
        self.pipe = open_model(job.options)
        self._generate = generator_of(self.pipe, job.options)
        schedule, settings = requested_schedule(self.pipe.config, size=job.settings.size), job.settings
        images, mixed = job.count * job.options.candidates, settings.mix is not None
        check_size(self.pipe, schedule, job.options, images, mixed=mixed, sampling=settings.sampling)

    def generate(self, batch: range, missing: Sequence[int]) -> list[str] | None:
        """Generate a batch and write those of its images that are missing; returns the names of their files.

        A batch of which `MOST_ATTEMPTS` processes have died is left out; returns None.
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
        job, config = self.job, self.pipe.config
        prompts = [job.prompt(image) for image in batch]
        output = self._generate(
            prompts_for(config, prompts),
            negative_prompt=negative_for(config, job.options),
            seed=job.seed(batch.start),
            size=job.settings.size,
            batch_size=len(batch),
            sampling=job.settings.sampling,
            mix=prompt_mix(config, job.settings.mix),
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
            with suppress(FileExistsError):  # one who died later in this batch has written it
                rename_to_new(unfinished, self.folder / job.name(image))
            yield job.name(image)
        flush_folder(self.folder)
