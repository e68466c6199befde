"""`hart generate --prompts-file`: which processes generate the images of a job, and what is reported about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart.checkpoint.folders import model_name
from hart.commands.console import (
    Report,
    importing,
    needs_extra,
    note,
    owned,
    print_path,
    progress,
    prompt_notes,
    says_when_stopped,
    scale_reporter,
)
from hart.commands.generate import RunOptions, asked_schedule, image_settings, require_one_sheet, write_grid
from hart.commands.jobs.job import MOST_ATTEMPTS, BatchGenerator, Job, begun, missing_images
from hart.commands.jobs.workers import Finished, Task, by_workers
from hart.commands.options import GenerateOptions
from hart.errors import HartError
from hart.generation.metadata import ImageSettings, read_image
from hart.sizes import parsed_size, size_of_schedule
from hart.strict import clipped, counted

if TYPE_CHECKING:
    import torch

    from hart.commands.ray_cluster import Cluster
    from hart.generation.outputs import ScalePreview

SHOWN_PROMPTS = 3


def run_job(
    options: GenerateOptions, given: Mapping[str, Any], how: RunOptions, like: ImageSettings | None = None
) -> None:
    """Generate the missing images, and print the paths of the new files.

    given: sampling settings, None for those not given. like: those of the image of `--like`.
    Raises `HartError` for a folder that holds another job, and at the end for images that killed their process.
    """
    options.require_files()  # before a model is opened
    with importing():
        import torch

        from hart.devices import resolve_device
    places, cluster = list[dict[str, str]](), None
    if how.ray:
        with needs_extra("ray"):
            from hart.commands.ray_cluster import joined
        cluster = joined(options.device, how.workers, "--workers")
        device = torch.device("cuda" if cluster.gpus else "cpu")
    else:
        device = resolve_device(options.device)
        places = environments(device, how.workers)
    job, out = resolved(options, given, like, device), options.place
    if how.grid:
        require_one_sheet(job.count, parsed_size(str(job.settings.size)))
    left_out = list[str]()
    stdout = None if cluster is None else sys.stdout
    with (
        nullcontext() if cluster is None else redirect_stdout(sys.stderr),  # Ray prints what it does
        owned(out, "a job"),
        begun(out, job),
        says_when_stopped(lambda: f"stopped: {job.there(out)} of {job.count} in {out}; the same command continues"),
        progress("looking for existing images") as report,
        prompt_notes(),
    ):
        missing = missing_images(out, job)
        done = job.count - sum(map(len, missing.values()))
        if done:
            note(f"already in {out}: {done} of {counted(job.count, 'image')}")
        report(done, job.count, f"loading {job.options.model}")
        with closing(_finished(out, job, list(missing.items()), places, cluster, report)) as batches:
            for finished in batches:
                if finished.names is None:
                    absent = [image for image in missing[finished.batch] if not (out / job.name(image)).exists()]
                    left_out += map(job.prompt, absent)
                    continue
                for name in finished.names:
                    print_path(out / name, to=stdout)
                done += len(missing[finished.batch])
                report(done, job.count, f"{done} of {counted(job.count, 'image')}")
    if left_out:
        raise HartError(
            f"{out}: lacks {len(left_out)} of {counted(job.count, 'image')}: {MOST_ATTEMPTS} processes each were "
            f"killed while they generated {_some(left_out)}; the others are there"
        )
    if how.grid:
        print_path(write_grid([read_image(out / job.name(image)) for image in range(job.count)], job.options))


def resolved(
    options: GenerateOptions, given: Mapping[str, Any], like: ImageSettings | None, device: torch.device
) -> Job:
    """Return the job for the arguments of `run_job`, with all defaults resolved: giving one explicitly changes nothing.

    No weights are read. Raises `HartError` for what the model cannot do.
    """
    from hart.checkpoint.loading import load_config, opens_in_8_bits, resolve_model
    from hart.devices import resolve_dtype
    from hart.generation.arguments import checked_prompts, checked_seed, checked_settings
    from hart.inference.speed import EXACT, LEVELS
    from hart.pipeline import default_batch

    model = options.source if options.random_weights else resolve_model(options.source)
    config = load_config(model)
    own_speed = "int8" if isinstance(model, Path) and opens_in_8_bits(model) else "exact"
    speed = LEVELS.get(options.speed or own_speed, EXACT)  # opening the model refuses others
    mix, base = (like.mix, like.sampling) if like is not None else (None, speed.sampling(config))
    schedule = asked_schedule(config, options, mix)
    sampling = checked_settings(config, base, given, schedule)
    checked_seed(options.seed or 0, options.count * options.candidates)
    checked_prompts(options.prompts, config.num_classes)
    dtype, size = resolve_dtype(options.dtype, device), size_of_schedule(config, schedule)
    settings = image_settings(options, device, dtype, sampling, size).replace(
        speed=None if options.speed == own_speed else options.speed,
        cache=None if options.cache == speed.cache else options.cache,
        negative_prompt=options.negative_prompt or None,
        mix=mix,
    )
    said = {
        "model": model_name(options.source),
        "batch_size": options.batch_size or default_batch(device.type),
        "images_per_prompt": options.each,
        "seed": options.seed or 0,
    }
    return Job(options.replace(**said), settings)


def _finished(
    folder: Path, job: Job, tasks: list[Task], places: list[dict[str, str]], cluster: Cluster | None, report: Report
) -> Generator[Finished, None, None]:
    """Yield batches as they are done. Remarks become notes, each printed once, whichever process makes them."""
    if not tasks:
        return
    if cluster is not None:
        from hart.commands.jobs.ray_data import by_cluster

        events = by_cluster(folder, job, tasks, cluster)
    elif len(places) > 1:
        events = by_workers(folder, job, tasks, places)
    else:
        events = _in_this_process(folder, job, tasks, report)
    said = set[str]()
    with closing(events):
        for finished in events:
            for remark in finished.remarks:
                if remark not in said:
                    note(remark)
                    said.add(remark)
            yield finished


def _in_this_process(folder: Path, job: Job, tasks: list[Task], report: Report) -> Generator[Finished, None, None]:
    finished, say_scale = 0, scale_reporter(report)

    def on_scale(preview: ScalePreview) -> None:
        say_scale(replace(preview, batch=finished, batches=len(tasks)))

    generator = BatchGenerator(folder, job, on_scale)
    for batch, missing in tasks:
        yield Finished(batch, generator.generate(batch, missing))
        finished += 1


def environments(device: torch.device, workers: int | None) -> list[dict[str, str]]:
    """Return what each worker of this machine finds in its environment: its GPU, or its share of the processor."""
    import torch

    if device.type == "cpu":
        count = workers or 1
        threads = str(max(1, (os.cpu_count() or 1) // count))
        return [{} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}] * count
    count = torch.cuda.device_count() if str(device) == "cuda" else 1
    if workers is not None and workers > count:
        raise HartError(f"--workers {workers}: a GPU takes one, but this command sees {count}")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible[:count] if len(visible) >= count else [str(number) for number in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[: workers or count]]


def _some(prompts: list[str]) -> str:
    shown = ", ".join(f'"{clipped(prompt, 40)}"' for prompt in prompts[:SHOWN_PROMPTS])
    return shown + (f" and {len(prompts) - SHOWN_PROMPTS} more" if len(prompts) > SHOWN_PROMPTS else "")
