"""Steps in their order from processes that read ahead."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hart.data.samples import one_line
from hart.errors import HartError


class StepStream(IterableDataset[Any]):
    """Endless steps, of which each worker makes a part."""

    def starting_at(self, step: int) -> Self:
        """The same steps from `step` on."""
        raise NotImplementedError


class ReadAhead:
    """Steps in their order through torch's `DataLoader`, whose worker processes run ahead.

    dataset: gives a step by its number; or all steps from one on, as a `StepStream`. Errors that the user can mend come
    out of it as values, since exceptions lose their type and their one line on the way between processes.
    """

    def __init__(self, dataset: Dataset[Any], workers: int) -> None:
        self._dataset = dataset
        self.workers = workers
        self._next = -1
        self._iterator: Iterator[Any] | None = None

    def parts(self, step: int) -> list[Any]:
        """The parts of a step in the order of the workers. Raises `HartError`, also one from a worker."""
        if step < 0:
            raise HartError(f"step is {step}: steps count from 0")
        if self._iterator is None or step != self._next:
            self.close()
            self._iterator = self._start(step)
        count = max(self.workers, 1) if isinstance(self._dataset, StepStream) else 1
        self._next = step + 1
        try:
            parts = [next(self._iterator) for _ in range(count)]
        except RuntimeError as error:
            self.close()
            if "DataLoader worker" not in str(error):
                raise
            raise HartError(
                f"a process that reads data was killed ({one_line(error)}): memory may have run out; use fewer workers"
            ) from None
        for part in parts:
            if isinstance(part, HartError):
                self.close()
                raise part
        return parts

    def close(self) -> None:
        """End the worker processes: they go with the iterator that holds them."""
        self._iterator = None

    def _start(self, step: int) -> Iterator[Any]:
        dataset, sampler = self._dataset, None
        if isinstance(dataset, StepStream):
            dataset = dataset.starting_at(step)
        else:
            sampler = itertools.count(step)
        # a generator of its own: the loader would otherwise draw from the global one, which models use
        generator = torch.Generator().manual_seed(0)
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=sampler,
                num_workers=self.workers,
                collate_fn=as_it_is,
                generator=generator,
                worker_init_fn=leave_interrupts,
            )
        )


def require_sharing(batch_size: int, rank: int, world: int) -> None:
    """Raises `HartError` for a batch that the processes cannot share evenly, or a rank that is not among them."""
    if world < 1 or not 0 <= rank < world:
        raise HartError(f"rank {rank} of {world}: ranks count from 0 to the number of processes less 1")
    if batch_size < 1 or batch_size % world:
        raise HartError(f"batch_size {batch_size} cannot be shared by {world} processes: make it a multiple of {world}")


def within(rows: slice, places: range) -> slice:
    """A slice of the global batch as one of a rank's part. Raises `HartError` when it reaches outside."""
    start, stop = rows.start or 0, places.stop if rows.stop is None else rows.stop
    if not places.start <= start < stop <= places.stop:
        raise HartError(f"rows {start} to {stop} are not of this process, which has {places.start} to {places.stop}")
    return slice(start - places.start, stop - places.start)


def leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: what to do about it is for the one that reads from here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def as_it_is(item: Any) -> Any:
    """What a `DataLoader` is to do with an item that is whole already."""
    return item
