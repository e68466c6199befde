"""Threads of Python in which PyTorch computes with one thread, each with a part of a work that needs no other part.

Else all threads share every operation and wait for each other after it, so that each takes as long as the slowest of
them. With a part of its own, a thread waits once.
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
"""More would wait for each other in Python."""
FEWEST_TOKENS = 96
"""Of a part. Each part reads all weights, which with few tokens takes as long as the products."""
FEWEST_MACS = 2**31
"""Of a part in a step: far more than what Python does in it, which only one thread at a time can."""


@dataclass(frozen=True)
class ByThreads:
    """A `hart.layers.sharing.Share` that gives equally many rows to each of PyTorch's threads, where that is faster.

    The numbers are those of all rows together where `hart.inference.packing.treats_rows_alike`.
    macs: multiply-accumulates of a step for one token.
    """

    macs: int

    def __call__(self, work: Work, rows: int, tokens: int) -> Tensor:
        """Raises what the work raises, in whichever thread; the others stop after the step that they are in."""
        threads = torch.get_num_threads()
        each, left = divmod(rows, threads)
        # gradients are a setting of a thread
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
            stopped.set()  # whoever interrupts the caller ends the parts too
            wait(parts)

    def pays(self, threads: int, tokens: int) -> bool:
        """Whether parts of so many tokens are faster than all of them at once."""
        return 1 < threads <= MOST_THREADS and tokens >= max(FEWEST_TOKENS, FEWEST_MACS / self.macs)


def begin_threads() -> None:
    """Let the threads begin that a model will need, before others compute: `single_threads`."""
    if 1 < (threads := torch.get_num_threads()) <= MOST_THREADS:
        single_threads(threads)


@cache
def single_threads(number: int, name: str = "hart-rows") -> ThreadPoolExecutor:
    """So many threads, in each of which PyTorch computes with one; they wait for work as long as the process lives.

    A thread that computes with several keeps them. Where a process has more such threads than cores, GNU's OpenMP lets
    them sleep between any two operations, and waking takes long: a server's sampling took half as long again.

    PyTorch keeps the number of its threads for each thread of Python, and once more for those that will begin, which
    is for a moment another here. Raises `HartError` if they cannot begin.
    """
    before, begun = torch.get_num_threads(), Barrier(number)

    def begin() -> None:
        torch.get_num_threads()  # takes the number for new threads, which would else be done in the first product
        torch.set_num_threads(1)
        begun.wait()

    threads = ThreadPoolExecutor(number, name)
    try:
        # none of them is idle before all have begun, so that each order begins another
        beginning = [threads.submit(begin) for _ in range(number)]
        for future in wait(beginning, return_when=FIRST_EXCEPTION).done:
            future.result()
    except BaseException as error:
        begun.abort()  # those that have begun wait for the others
        threads.shutdown()
        if not isinstance(error, RuntimeError):
            raise
        raise HartError(
            f"the {number} threads of PyTorch cannot compute apart: {reason(error)}; let this process begin more "
            "threads, or set OMP_NUM_THREADS=1"
        ) from error
    finally:
        torch.set_num_threads(before)
    return threads
