"""CUDA graphs for the blocks of a transformer in generation: one launch per scale instead of thousands.

A scale of a given schedule always has the same number of tokens, at the same place in the cache. So all its kernels are
recorded once, with the memory that they read and write, and replayed for every image. The cache of a batch must then be
the same memory each time: it is lent, and returns when nothing refers to it. Results are those of the plain loop.

At most `MOST_KINDS` kinds of caches are kept: those of the most recently used batches and sizes.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hart.layers.kv_cache import KVCache

MOST_KINDS = 8
"""As many as a server has batch sizes."""

Work = Callable[[Sequence[Tensor]], Tensor]
"""Maps inputs, all on one device, to a result."""
Capture = Callable[[Callable[[], Tensor], torch.device, Any], tuple[Callable[[], None], Tensor, Any]]
"""Takes work on a device, and the memory pool of a graph that never runs at the same time (None: its own); returns a
function that repeats the work, the result that this fills, and the pool that it used."""

_alone = threading.RLock()
"""The process records one graph at a time, a graph's own memory serves one call at a time, and a cache may return at
any time, in any thread."""


def cuda_capture(work: Callable[[], Tensor], device: torch.device, pool: Any) -> tuple[Callable[[], None], Tensor, Any]:
    """A `Capture` on an NVIDIA GPU. The work runs once before, for kernels that choose or compile at first."""
    # PyTorch only records on the current device: work on another would run and leave the graph empty
    with torch.cuda.device(device):
        stream, graph = _side_stream(device), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        # other threads may allocate memory meanwhile
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = work()
    return graph.replay, result, graph.pool()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all recordings, since cuBLAS keeps a workspace per stream (32 MiB on Hopper)."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class Graph:
    inputs: list[Tensor]
    replay: Callable[[], None]
    result: Tensor
    pool: Any


class BlockGraphs:
    """The graphs of one transformer on one device."""

    def __init__(self, capture: Capture = cuda_capture) -> None:
        self.capture = capture
        self.free: dict[Hashable, list[KVCache]] = {}  # by kind, the most recently used last

    def lend(self, kind: Hashable, make: Callable[[], KVCache]) -> KVCache:
        """Return an empty cache of a kind; its memory is lent again once the caller has dropped it."""
        with _alone:
            waiting = self.free[kind] = self.free.pop(kind, [])
            while len(self.free) > MOST_KINDS:
                del self.free[next(iter(self.free))]
            kept = waiting.pop() if waiting else make()
        lent = copy.copy(kept)
        weakref.finalize(lent, self._take_back, kind, kept)
        return lent

    def _take_back(self, kind: Hashable, cache: KVCache) -> None:
        with _alone:
            if kind in self.free:
                self.free[kind].append(cache)

    def run(self, work: Work, inputs: Sequence[Tensor], cache: KVCache) -> Tensor:
        """Run `work` on the inputs and the tokens in the cache, to which it appends."""
        key = (cache.length, *(tuple(x.shape) for x in inputs))
        with _alone:
            if (graph := cache.recorded.get(key)) is None:
                own = [x.clone() for x in inputs]
                pool = next((other.pool for other in cache.recorded.values()), None)  # scales run one after the other
                graph = cache.recorded[key] = Graph(own, *self.capture(lambda: work(own), own[0].device, pool))
            torch._foreach_copy_(graph.inputs, list(inputs))
            graph.replay()
            return graph.result.clone()
