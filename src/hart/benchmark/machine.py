"""What a machine is and can do: facts, clocks, the rate of products, the bandwidth of copies, peak memory."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hart.inference.kernels import GPU_PRODUCTS, int8_range, packed_int8, packed_int8_product, shift_back, unsigned
from hart.inference.packing import pack_weight, packed_linear, packing_refusal

SEED = 0
REPEATS = 20
"""Most calls of a product to measure its rate."""
SQUARES = {"cpu": (1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sizes of the square products to measure the rate of."""
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30, "mps": 2**28}
PROCESSOR_FEATURES = {"AMX": "amx_tile", "AVX-512": "avx512_f", "AVX-512 bf16": "avx512_bf16", "VNNI": "avx512_vnni"}


@dataclass(frozen=True)
class Clock:
    """mark: a point in time. between: seconds from one to another, once `wait` has returned."""

    mark: Callable[[], Any]
    between: Callable[[Any, Any], float]
    wait: Callable[[], None] = lambda: None

    def seconds(self, work: Callable[[], object]) -> float:
        """Return how long one call takes, until the device has finished it."""
        start = self.mark()
        work()
        end = self.mark()
        self.wait()
        return self.between(start, end)


def host_clock(now: Callable[[], float] = time.perf_counter) -> Clock:
    return Clock(now, lambda start, end: end - start)


def device_clock(device: torch.device) -> Clock:
    """Return CUDA events on a GPU, which are reached once the work before them is done; elsewhere the host's clock."""
    if device.type == "mps":

        def finished() -> float:
            torch.mps.synchronize()
            return time.perf_counter()

        return host_clock(finished)
    if device.type != "cuda":
        return host_clock()

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return Clock(mark, lambda start, end: start.elapsed_time(end) / 1000, partial(torch.cuda.synchronize, device))


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return what a result must state about hardware and software; about the GPU too if `device` is one."""
    facts: dict[str, Any] = {"processor": processor_name(), "cores": os.cpu_count()}
    features = torch.cpu.get_capabilities()
    facts |= {name: bool(features[key]) for name, key in PROCESSOR_FEATURES.items() if key in features}
    if hasattr(os, "getloadavg"):
        facts["load average at the start"] = round(os.getloadavg()[0], 1)
    facts |= {
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "GPU": properties.name,
            "GPU memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }
    return facts


def processor_name() -> str:
    """Return the model's name if Linux knows it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@torch.inference_mode()
def product_rate(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, clock: Clock, seconds: float = 0.3
) -> float:
    """Return the best operations per second (2 per MAC) of a linear layer, by its fastest kernel.

    shape: rows, inputs, outputs. dtype: if 8 bits, one that `kernel_refusal` allows. seconds: about how long to
        measure.
    """
    products = _products(shape, dtype, device)
    best = float("inf")
    for product in products:
        product()
        times: list[float] = []
        while not times or (sum(times) < seconds / len(products) and len(times) < REPEATS):
            times.append(max(clock.seconds(product), 1e-9))
        best = min(best, *times)
    rows, inputs, outputs = shape
    return 2 * rows * inputs * outputs / best


def square_rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.3) -> float:
    """Return `product_rate` of the smallest square: what a device can do, measured in little time."""
    size = SQUARES[device.type][0]
    return product_rate((size, size, size), dtype, device, device_clock(device), seconds)


def _products(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> list[Callable[[], Tensor]]:
    """Return a product by each kernel that linear layers may use."""
    rows, inputs, outputs = shape
    generator = torch.Generator(device).manual_seed(SEED)
    # random numbers: a GPU multiplies equal ones faster
    x, weight = (
        torch.randn(size, generator=generator, device=device).mul_(30 if dtype.itemsize == 1 else 1).to(dtype)
        for size in ((rows, inputs), (outputs, inputs))
    )
    if dtype.itemsize > 1:
        plain = partial(F.linear, x, weight)
        if device.type != "cpu" or packing_refusal(dtype) is not None:
            return [plain]
        return [plain, partial(packed_linear, x, pack_weight(weight), None)]
    scale, weight_scale = torch.ones(rows, 1, device=device), torch.ones(outputs, device=device)
    if device.type != "cpu":
        return [partial(GPU_PRODUCTS[dtype], x, scale, weight, weight_scale)]
    # only the kernel: activations are unsigned already
    largest = int8_range()
    packed = packed_int8(weight)
    back = shift_back(packed, weight_scale, largest)
    return [partial(packed_int8_product, unsigned(x, largest), packed, weight_scale, back)]


def copy_bandwidth(device: torch.device, clock: Clock, size: int | None = None) -> float:
    """Return the bytes per second of a copy, read and written ones together. size: bytes copied."""
    size = COPY_BYTES[device.type] if size is None else size
    source = torch.zeros(size, dtype=torch.uint8, device=device).fill_(1)  # memory that is really allocated
    target = torch.zeros_like(source).fill_(2)
    return 2 * size / min(max(clock.seconds(lambda: target.copy_(source)), 1e-9) for _ in range(8))


def peak_memory(device: torch.device) -> Callable[[], float | None]:
    """Start counting; the returned function gives the peak GiB since then: of tensors on a GPU, else of the process.

    None if the system does not count.
    """
    if device.type == "cuda":
        with suppress(RuntimeError):
            torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device) / 2**30
    if device.type != "cpu":
        return lambda: None
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that glibc keeps from earlier work would hide what this takes
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: reset the peak
    except OSError:
        return lambda: None

    def largest() -> float | None:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
        return None

    return largest
