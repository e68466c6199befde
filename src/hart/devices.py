"""Devices and number types by name, out-of-memory errors, and modules without memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hart.errors import HartError, lacks_memory

# Messages of PyTorch's allocators that come as a plain RuntimeError: on CPUs, on Apple GPUs, and in CUDA's own
# libraries.
MEMORY_SIGNS = ("DefaultCPUAllocator: ", "MPS backend out of memory", "CUDA error: out of memory", "_ALLOC_FAILED")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRODUCTS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}
"""x86 processor features; at least one is needed to multiply in a type as fast as in float32."""
SLOW = "takes several times as long as float32 on this processor"
MPS_TORCH = "2.13"
"""First PyTorch version accepted for Apple GPUs. Earlier ones silently give wrong results there in what a model here
does all the time: attention of few queries in a batch (issue 181133 of pytorch/pytorch), copies (189690)."""
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_device(name: torch.device | str | None) -> torch.device:
    """Return the device called `name`: "cpu", "cuda", "cuda:1", "mps". None means CUDA if there is one, else the CPU.

    MPS is only used if named: this project has not been run on it.
    Raises `HartError` for other names, for devices that this machine does not have, and for MPS before `MPS_TORCH`.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise HartError(f"unknown device {str(name)!r}: choose cpu, cuda, cuda:<number> or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise HartError(f"device {str(name)!r}: PyTorch sees no CUDA GPU on this machine; choose cpu")
        if (device.index or 0) >= count:
            raise HartError(f"device {str(name)!r}: CUDA GPUs are numbered from 0, and this machine has {count}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise HartError(f"device {str(name)!r}: PyTorch sees no Apple GPU on this machine; choose cpu")
    if device.type == "mps" and torch.__version__ < MPS_TORCH:
        raise HartError(
            f"device {str(name)!r}: torch {torch.__version__} gives wrong numbers on Apple GPUs; install torch "
            f"{MPS_TORCH} or later, or choose cpu"
        )
    return device


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether `device` is a processor without matrix products in a number type. They are assumed if PyTorch does
    not know, as on ARM."""
    if device.type != "cpu" or dtype not in PRODUCTS:
        return False
    features = torch.cpu.get_capabilities()
    return not any(features.get(feature, True) for feature in PRODUCTS[dtype])


def slow_remarks(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Return one line if `is_slow`, else none, for callers that choose a number type."""
    return [f"{dtype_name(dtype)} {SLOW}"] if is_slow(dtype, device) else []


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """Return a number type of `DTYPES`, given as such or by name ("bfloat16", "bf16"). None means the device's default.

    The default is bfloat16 on CUDA and float32 elsewhere. Raises `HartError` for any other type.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _known_dtype(dtype, DTYPES)


def resolve_stored_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a type that weights are stored in: those of `DTYPES`, and int8. Raises `HartError` for any other type."""
    return _known_dtype(dtype, DTYPES | {"int8": torch.int8})


def _known_dtype(dtype: torch.dtype | str, types: Mapping[str, torch.dtype]) -> torch.dtype:
    if isinstance(dtype, str):
        known = types.get(SHORT_NAMES.get(dtype, dtype))
    else:
        known = dtype if dtype in types.values() else None
    if known is None:
        raise HartError(f"unknown dtype {dtype!r}: choose {', '.join(types)}")
    return known


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to `device` without waiting for the device's pending work; on MPS, wait until it has arrived."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # from pageable memory a copy would only begin when the device is idle
        tensor = tensor.pin_memory()
    # PyTorch copies to an Apple GPU from memory that another tensor may have reused by then (issues 139550 and 189690)
    return tensor.to(device, non_blocking=device.type != "mps")


def row_index(rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return row numbers as (n,) int64 on `device`, to index tensors there."""
    return sent(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)


def convolution_layout(device: torch.device) -> torch.memory_format:
    """Return the memory format in which convolutions are fastest on a device, for weights and inputs."""
    # PyTorch before 2.14 misreads weights in any other order than this one on Apple GPUs (issue 192212)
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a number type, by which `resolve_dtype` knows those of `DTYPES`."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products and convolutions on NVIDIA GPUs in float32, not in TF32 with its 10 fraction bits.

    PyTorch's default is TF32 for convolutions. Applies to the whole process while active.
    """
    of = torch.backends
    kinds = of.cuda.matmul, of.cudnn.conv, of.mkldnn.matmul  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    older = None
    with suppress(RuntimeError):  # the older setting, unless only the newer one was used: products refuse a mixture
        older = torch.get_float32_matmul_precision()
    try:
        if older is not None:
            torch.set_float32_matmul_precision("highest")
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def machine_memory() -> int | None:
    """Return the bytes of main memory; None if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a program may still allocate; None if the system does not say.

    For main memory this includes what can be swapped out, and respects a container's limit.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    kilobytes = _counts(Path("/proc/meminfo"))
    if "MemAvailable:" not in kilobytes:
        return machine_memory()
    free = 1024 * (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0))
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # a limit of "max" means none
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - _counts(group / "memory.stat").get("anon", 0))  # cached files can be evicted
    return free


def require_room(needed: int, what: str, device: torch.device) -> None:
    """Raise `HartError` if `needed` bytes are more than `free_memory`. Errors call their use `what`."""
    if (free := free_memory(device)) is not None and needed > free:
        raise HartError(
            f"{what} take {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free: choose --dtype bfloat16 "
            "or a smaller model, or end other programs"
        )


def _counts(file: Path) -> dict[str, int]:
    """Return the names and numbers in a system file; empty if it is missing."""
    with suppress(OSError):
        lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    return {}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that the device or the machine ran out of memory."""
    if lacks_memory(error) or isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)


class _WithoutValues(TorchFunctionMode):
    """Skips `torch.nn.init`: it has no effect on the meta device, where the first random number takes a second, in
    which PyTorch imports its compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build modules with shapes and types only, on the meta device, without memory or values."""
    with torch.device("meta"), _WithoutValues():
        yield


def give_memory(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Allocate memory with arbitrary content for a module built `without_memory`. dtype: None keeps the types.

    Like `Module.to_empty`, for which PyTorch imports its compiler and symbolic algebra: over a second.
    """

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        return torch.empty(tensor.shape, dtype=kept, device=device)

    module._apply(empty)
