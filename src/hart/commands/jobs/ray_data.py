"""Runs a job on the machines of a Ray cluster, through Ray Data.

All machines need this package and, under the same path, the job's folder; also a model that is not a hub id.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from hart.commands.console import notes_to, prompt_notes
from hart.commands.jobs.job import BatchGenerator, Job
from hart.commands.jobs.workers import Finished, Task
from hart.commands.ray_cluster import Cluster
from hart.errors import HartError


def by_cluster(folder: Path, job: Job, tasks: list[Task], cluster: Cluster) -> Generator[Finished, None, None]:
    """Do the same as `by_workers`. Ray replaces lost workers and machines, and gives their batches to others."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"start": batch.start, "stop": batch.stop, "missing": missing} for batch, missing in tasks]
    finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        RayGenerator,  # type: ignore[arg-type]  # a class, whose objects are the workers
        fn_constructor_args=(folder.resolve(), job, cluster.on_a_machine),
        compute=ray.data.ActorPoolStrategy(size=min(cluster.workers, len(rows))),
        num_gpus=1 if cluster.gpus else None,
    )
    try:
        for row in finished.iter_rows():
            names = None if row["left_out"] else list(row["names"])
            yield Finished(range(row["start"], row["stop"]), names, list(row["remarks"]))
    except RayTaskError as error:
        if isinstance(error.cause, HartError):
            raise error.cause from None
        raise
    finally:
        ray.shutdown()


class RayGenerator:
    """A worker of the cluster."""

    def __init__(self, folder: Path, job: Job, on_a_machine: int) -> None:
        """on_a_machine: how many share a machine's processor."""
        import torch

        # Ray gives a worker one thread
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_a_machine))
        self._remarks = list[str]()
        with notes_to(self._remarks.append), prompt_notes():
            self._generator = BatchGenerator(folder, job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        with notes_to(self._remarks.append), prompt_notes():
            names = self._generator.generate(range(row["start"], row["stop"]), list(row["missing"]))
        remarks, self._remarks = self._remarks, []
        return {
            "start": row["start"],
            "stop": row["stop"],
            "left_out": names is None,
            "names": names or [],
            "remarks": remarks,
        }
