"""Items and batches in order, made by processes that read ahead."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hart.data.order import BucketOrder
from hart.errors import HartError
from hart.stopping import leave_to_the_parent
from hart.strict import reason, whole_number

MAX_NUMBER = 2**63 - 1
"""Largest seed, and bound of numbers that have no other."""
MAX_WORKERS = 1024
START = "fork" if sys.platform == "linux" else None
"""How processes start; None is the system's default, for which readers can be pickled. A forked one shares the list of
the set and takes 0.06 s. Otherwise it imports PyTorch first, for 2.5 s and 160 MiB each, and runs the main module of
the program again. Python warns of forks beside threads, whose locks stay locked in the new process; but there, one
thread does nothing but read files."""
Make = Callable[[int, int], Iterator[Any]]
"""(worker, workers) -> the items of a worker: numbers worker, worker + workers, ... of all."""


def read_ahead(make: Make, workers: int) -> Iterator[Any]:
    """Yield all items, one from each worker in turn; with 0 workers, made on demand.

    The processes end with the iterator. Raises `HartError`, including those of workers.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # as many as requested
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # see `START`
            items = iter(
                DataLoader(
                    _Items(make),
                    batch_size=None,
                    num_workers=workers,
                    multiprocessing_context=START if workers else None,
                    collate_fn=_unchanged,
                    # by default the loader draws from the global generator, which models use
                    generator=torch.Generator().manual_seed(0),
                    worker_init_fn=_leave_signals,
                )
            )
        for item in items:
            if isinstance(item, HartError):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise HartError(
            f"a process that reads data was killed ({reason(error)}): memory may have run out; use fewer workers"
        ) from None


class _Items(IterableDataset[Any]):
    """Yields `HartError`s as items, since exceptions lose their type between processes."""

    def __init__(self, make: Make) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        try:
            yield from self._make(info.id, info.num_workers) if info else self._make(0, 1)
        except HartError as error:
            yield error


def _leave_signals(worker: int) -> None:
    leave_to_the_parent()


def _unchanged(item: Any) -> Any:
    """Collate nothing: by default the loader would make tensors of arrays."""
    return item


Batch = TypeVar("Batch", bound=Any)


def row_items(
    batch: Callable[[int, Sequence[int]], Batch],
    order: BucketOrder,
    batch_size: int,
    first: int,
    worker: int,
    workers: int,
) -> Iterator[Batch]:
    """Yield items for a `StepLoader` over a set that can be read at random: a worker makes whole steps.

    batch: takes a step and the rows of all places of the global batch.
    """
    for step in itertools.count(first + worker, workers):
        yield batch(step, order.batch(step, batch_size).tolist())


class StepLoader(Generic[Batch]):
    """One rank's share of each batch, by step. Any step may be requested; only the next one is read ahead."""

    def __init__(
        self, items: Callable[[int, int, int], Iterator[Any]], *, places: range, workers: int, parts: int = 1
    ) -> None:
        """items: (first step, worker, workers) -> what a worker makes, `parts` per batch; called in its process.

        places: this rank's, in the global batch. workers: processes that read ahead. Raises `HartError`.
        """
        self.places = places
        self.workers = whole_number("workers", workers, 0, MAX_WORKERS)
        self._make = items
        self._parts = parts
        self._step = -1
        self._batch: Batch | None = None
        self._items: Iterator[Any] | None = None

    def join(self, parts: Sequence[Batch]) -> Batch:
        """Return a batch from its parts, in the order of the workers."""
        return parts[0]

    def batch(self, step: int) -> Batch:
        """Return this rank's share of a step, from 0; the last one is kept. Raises `HartError`."""
        if self._batch is None or step != self._step:
            if self._items is None or step != self._step + 1:
                self._items = read_ahead(partial(self._make, step), self.workers)
            try:
                self._batch = self.join([next(self._items) for _ in range(self._parts)])
            except BaseException:
                self.close()
                raise
            self._step = step
        return self._batch

    def rows(self, step: int, rows: slice) -> Batch:
        """Return some places of a step's global batch, all of this rank: one microbatch of an accumulated step."""
        own = self.places
        assert own.start <= rows.start < rows.stop <= own.stop, "rows of another process"
        return self.batch(step).rows(slice(rows.start - own.start, rows.stop - own.start))

    def close(self) -> None:
        """End the processes that read ahead; a later `batch` starts them again."""
        self._items = self._batch = None


def places_of(rank: int, world: int, batch_size: int) -> range:
    """Return a rank's places in the global batch. Raises `HartError` if the processes cannot share it evenly."""
    batch_size = whole_number("batch_size", batch_size, 1, MAX_NUMBER)
    world = whole_number("world", world, 1, MAX_NUMBER)
    rank = whole_number("rank", rank, 0, world - 1)
    if batch_size % world:
        raise HartError(f"batch_size {batch_size} cannot be shared by {world} processes: make it a multiple of {world}")
    part = batch_size // world
    return range(rank * part, (rank + 1) * part)
