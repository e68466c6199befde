"""A job over the machines of a Ray cluster, through Ray Data.

All machines need this package and, under the same path, the job's folder; a model that is no hub id too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.data
from ray.exceptions import RayTaskError

from hart.commands.jobs.job import Job, JobFolder
from hart.commands.jobs.workers import Drawn, Opened, Task
from hart.errors import HartError
from hart.sizes import parsed_size

if TYPE_CHECKING:
    from hart.generation.metadata import ImageSettings


class RayCluster:
    """The cluster that `RAY_ADDRESS` names or that this machine belongs to, else one of this machine alone."""

    def __init__(self, device: str | None, workers: int | None) -> None:
        """workers: by default one a GPU; one a machine if there are none, or if `device` is the CPU."""
        ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self.gpus = 0 if device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        machines = sum(node["Alive"] for node in ray.nodes())
        if self.gpus and workers is not None and workers > self.gpus:
            raise HartError(f"--workers {workers}: a GPU takes one, and the cluster has {self.gpus}")
        self.workers = workers or self.gpus or machines
        self._on_a_machine = -(-self.workers // machines)

    def draw(self, folder: JobFolder, tasks: list[Task]) -> Iterator[Opened | Drawn]:
        """As `Workers.draw`. Ray replaces workers and machines that are lost, and gives their batches to others."""
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"start": batch.start, "stop": batch.stop, "missing": missing} for batch, missing in tasks]
        drawn = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            RayDrawer,  # type: ignore[arg-type]  # a class, whose objects are the workers
            fn_constructor_args=(folder.path.resolve(), folder.job, folder.settings, self._on_a_machine),
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
            num_gpus=1 if self.gpus else None,
        )
        opened = False
        try:
            for row in drawn.iter_rows():
                if not opened:
                    yield Opened(parsed_size(row["size"]), row["remark"])
                    opened = True
                yield Drawn(range(row["start"], row["stop"]), None if row["left_out"] else list(row["names"]))
        except RayTaskError as error:
            if isinstance(error.cause, HartError):
                raise error.cause from None
            raise
        finally:
            ray.shutdown()


class RayDrawer:
    """A worker of the cluster."""

    def __init__(self, folder: Path, job: Job, expected: ImageSettings | None, on_a_machine: int) -> None:
        """on_a_machine: how many share a machine's processor."""
        import torch

        from hart.commands.jobs.drawing import Drawer

        # Ray lets a worker have one thread
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_a_machine))
        self._drawer = Drawer(folder, job, expected)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        names = self._drawer.draw(range(row["start"], row["stop"]), list(row["missing"]))
        return {
            "start": row["start"],
            "stop": row["stop"],
            "left_out": names is None,
            "names": names or [],
            "size": str(self._drawer.size),
            "remark": self._drawer.remark,
        }
