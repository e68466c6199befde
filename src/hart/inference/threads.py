"""Python threads in which PyTorch computes with a single thread; each does an independent part of the work.

Otherwise all threads share every operation and wait for each other after it, so that each takes as long as the slowest.
With a part of its own, a thread waits only once.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from threading import Barrier, Event

import torch
from torch import Tensor

from hart.errors import HartError
from hart.layers.sharing import Work, whole
from hart.strict import reason

MOST_THREADS = 4
"""More threads would wait for each other in Python."""
FEWEST_TOKENS = 96
"""Fewest tokens of a part. Each part reads all weights, which with few tokens takes as long as the products."""
FEWEST_MACS = 2**31
"""Fewest MACs of a part per step: far more than its work in Python, which only one thread at a time can do."""


@dataclass(frozen=True)
class ByThreads:
    """A `hart.layers.sharing.Share` that splits rows equally among PyTorch's threads, if that is faster.

    Results equal those of all rows together if `hart.inference.packing.treats_rows_alike`.
    macs: multiply-accumulates per step for one token.
    """

    macs: int

    def __call__(self, work: Work, rows: int, tokens: int) -> Tensor:
        """Raise what the work raises in any thread; the others stop after their current step."""
        threads = torch.get_num_threads()
        each, left = divmod(rows, threads)
        # whether gradients are on is a setting per thread
        if left or not torch.is_inference_mode_enabled() or not self.pays(threads, each * tokens):
            return whole(work, rows, tokens)
        stopped = Event()

        @torch.inference_mode()
        def part(start: int) -> Tensor:
            try:
                for state in work(slice(start, start + each)):
                    found = state
                    if stopped.is_set():
                        break
            except BaseException:
                stopped.set()
                raise
            return found

        parts = list[Future[Tensor]]()
        try:
            for start in range(0, rows, each):
                parts.append(single_threads(threads).submit(part, start))
            return torch.cat([future.result() for future in parts])
        finally:
            stopped.set()  # an interruption of the caller also ends the parts
            wait(parts)

    def pays(self, threads: int, tokens: int) -> bool:
        """Return whether parts of `tokens` tokens are faster than all of them at once."""
        return 1 < threads <= MOST_THREADS and tokens >= max(FEWEST_TOKENS, FEWEST_MACS / self.macs)


def begin_threads() -> None:
    """Start the threads that a model will need before others compute: `single_threads`."""
    if 1 < (threads := torch.get_num_threads()) <= MOST_THREADS:
        single_threads(threads)


@cache
def single_threads(number: int, name: str = "hart-rows") -> ThreadPoolExecutor:
    """Return `number` threads, each computing with one PyTorch thread; they wait for work for the process's lifetime.

    A thread that computes with several keeps them. If a process has more such threads than cores, GNU's OpenMP lets
    them sleep between any two operations, and waking takes long: a server's sampling took half as long again.

    PyTorch keeps its number of threads per Python thread, and a default for new ones, which this changes for a moment.
    Raises `HartError` if they cannot start.
    """
    before, begun = torch.get_num_threads(), Barrier(number)

    def begin() -> None:
        torch.get_num_threads()  # fetches the number for new threads, which would else happen in the first product
        torch.set_num_threads(1)
        begun.wait()

    threads = ThreadPoolExecutor(number, name)
    try:
        # none is idle before all have started, so that each submission starts another
        beginning = [threads.submit(begin) for _ in range(number)]
        for future in wait(beginning, return_when=FIRST_EXCEPTION).done:
            future.result()
    except BaseException as error:
        begun.abort()  # those that have started wait for the others
        threads.shutdown()
        if not isinstance(error, RuntimeError):
            raise
        raise HartError(
            f"the {number} threads of PyTorch cannot compute separately: {reason(error)}; let this process start more "
            "threads, or set OMP_NUM_THREADS=1"
        ) from error
    finally:
        torch.set_num_threads(before)
    return threads
