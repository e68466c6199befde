"""`hart generate --prompts-file`: who generates the images of a job, and what is said about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING

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
)
from hart.commands.contact_sheets import require_one_sheet, write_grid
from hart.commands.jobs.job import MOST_ATTEMPTS, Job, JobFolder
from hart.commands.jobs.workers import Event, Finished, Opened, Remark, Task, by_workers
from hart.errors import HartError
from hart.generation.metadata import read_image
from hart.strict import clipped, counted

if TYPE_CHECKING:
    import torch

    from hart.commands.ray_cluster import Cluster
    from hart.generation.outputs import ScalePreview

SHOWN_PROMPTS = 3


def run_job(job: Job, *, workers: int | None = None, ray: bool = False, grid: bool = False) -> None:
    """Generate the images that are not there yet, and print the paths of the new files.

    workers: processes on this machine, or on the Ray cluster (ray); None is one a GPU, or one.
    Raises `HartError` for a folder that holds another job, and at the end for images that killed their process.
    """
    options, out = job.options, job.options.out
    with importing():
        from hart.devices import resolve_device
        from hart.pipeline import default_batch
    places, cluster = list[dict[str, str]](), None
    if ray:
        with needs_extra("ray"):
            from hart.commands.ray_cluster import joined
        cluster = joined(options.device, workers, "--workers")
        kind = "cuda" if cluster.gpus else "cpu"
    else:
        device = resolve_device(options.device)
        places, kind = environments(device, workers), device.type
    # a default that is given and one that is not are one job
    said_or_not = {
        "model": model_name(options.source),
        "batch_size": options.batch_size or default_batch(kind),
        "images_per_prompt": options.images_per_prompt or 1,
        "seed": options.seed or 0,
    }
    job = replace(job, options=options.replace(**said_or_not))
    left_out = list[str]()
    stdout = None if cluster is None else sys.stdout
    with (
        nullcontext() if cluster is None else redirect_stdout(sys.stderr),  # Ray prints what it does
        owned(out, "a job"),
        closing(JobFolder(out, job)) as folder,
        says_when_stopped(lambda: f"stopped: {job.there(out)} of {job.count} in {out}; the same command continues"),
        progress("looking for images that are there") as report,
        prompt_notes(),
    ):
        missing = folder.missing()
        done = job.count - sum(map(len, missing.values()))
        if done:
            note(f"already in {out}: {done} of {counted(job.count, 'image')}")
        report(done, job.count, f"loading {job.options.model}")
        with closing(_events(folder, list(missing.items()), places, cluster, report)) as events:
            for event in events:
                if isinstance(event, Opened):
                    if grid:
                        require_one_sheet(job.count, event.size)
                elif event.names is None:
                    absent = [image for image in missing[event.batch] if not (out / job.name(image)).exists()]
                    left_out += map(job.prompt, absent)
                else:
                    for name in event.names:
                        print_path(out / name, to=stdout)
                    done += len(missing[event.batch])
                report(done, job.count, f"{done} of {counted(job.count, 'image')}")
    if left_out:
        raise HartError(
            f"{out}: lacks {len(left_out)} of {counted(job.count, 'image')}: {MOST_ATTEMPTS} processes each were "
            f"killed while they generated {_some(left_out)}; the others are there"
        )
    if grid:
        print_path(write_grid([read_image(out / job.name(image)) for image in range(job.count)], job.options))


def _events(
    folder: JobFolder,
    tasks: list[Task],
    places: list[dict[str, str]],
    cluster: Cluster | None,
    report: Report,
) -> Generator[Opened | Finished, None, None]:
    if not tasks:
        return
    if cluster is not None:
        from hart.commands.jobs.ray_data import by_cluster

        yield from _noted(by_cluster(folder, tasks, cluster))
    elif len(places) > 1:
        yield from _noted(by_workers(folder, tasks, places))
    else:
        yield from _in_this_process(folder, tasks, report)


def _noted(events: Generator[Event, None, None]) -> Iterator[Opened | Finished]:
    """Remarks become notes, each said once, whoever comes upon it."""
    said = set[str]()
    with closing(events):
        for event in events:
            if not isinstance(event, Remark):
                yield event
            elif event.text not in said:
                said.add(event.text)
                note(event.text)


def _in_this_process(folder: JobFolder, tasks: list[Task], report: Report) -> Iterator[Opened | Finished]:
    from hart.commands.jobs.generating import BatchGenerator

    finished = 0

    def on_scale(preview: ScalePreview) -> None:
        done, total = finished * preview.scales + preview.k + 1, len(tasks) * preview.scales
        report(done, total, f"batch {finished + 1}/{len(tasks)}, scale {preview.k + 1}/{preview.scales}")

    generator = BatchGenerator(folder.path, folder.job, folder.settings, on_scale)
    yield Opened(generator.size)
    for batch, missing in tasks:
        yield Finished(batch, generator.generate(batch, missing))
        finished += 1


def environments(device: torch.device, workers: int | None) -> list[dict[str, str]]:
    """What each worker of this machine finds in its environment: its GPU, or its share of the processor."""
    import torch

    if device.type == "cpu":
        count = workers or 1
        threads = str(max(1, (os.cpu_count() or 1) // count))
        return [{} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}] * count
    count = torch.cuda.device_count() if str(device) == "cuda" else 1
    if workers is not None and workers > count:
        raise HartError(f"--workers {workers}: a GPU takes one, and this command sees {count}")
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible[:count] if len(visible) >= count else [str(number) for number in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[: workers or count]]


def _some(prompts: list[str]) -> str:
    shown = ", ".join(f'"{clipped(prompt, 40)}"' for prompt in prompts[:SHOWN_PROMPTS])
    return shown + (f" and {len(prompts) - SHOWN_PROMPTS} more" if len(prompts) > SHOWN_PROMPTS else "")
