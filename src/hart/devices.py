"""Devices and number types by the names that users write; out of memory; modules without memory."""

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

# Messages of PyTorch's allocators that come as a plain RuntimeError: on CPUs, on Apple GPUs, and inside CUDA's own
# libraries.
MEMORY_SIGNS = ("DefaultCPUAllocator: ", "MPS backend out of memory", "CUDA error: out of memory", "_ALLOC_FAILED")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRODUCTS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}
"""Features of x86 processors, one of which is needed to multiply in a type as fast as in float32."""
SLOW = "takes several times as long as float32 on this processor"
MPS_TORCH = "2.13"
"""The first PyTorch with which an Apple GPU is taken. Earlier ones give wrong numbers there without an error, in what a
model here does all the time: attention of few queries in a batch (issue 181133 of pytorch/pytorch), copies (189690)."""
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_device(name: torch.device | str | None) -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1", "mps". None takes CUDA if there is one, else the CPU.

    MPS is taken by name only: this project has not been run on it.
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
    """Whether `device` is a processor without matrix products in a number type. Where PyTorch does not know, as on ARM,
    they are assumed."""
    if device.type != "cpu" or dtype not in PRODUCTS:
        return False
    features = torch.cpu.get_capabilities()
    return not any(features.get(feature, True) for feature in PRODUCTS[dtype])


def slow_remarks(dtype: torch.dtype, device: torch.device) -> list[str]:
    """A line where `is_slow`, else none: for whoever asks for a number type that costs time."""
    return [f"{dtype_name(dtype)} {SLOW}"] if is_slow(dtype, device) else []


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """A number type of `DTYPES`, given as such or by name ("bfloat16", "bf16"). None takes the device's default.

    The default is bfloat16 on CUDA and float32 elsewhere. Raises `HartError` for any other type.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _known_dtype(dtype, DTYPES)


def resolve_stored_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A type that weights are stored in: those of `DTYPES`, and int8. Raises `HartError` for any other type."""
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
    """A tensor on `device`, without waiting for what the device has to do before; on MPS when it has arrived."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # from other memory a copy begins when the device is idle
        tensor = tensor.pin_memory()
    # to an Apple GPU PyTorch copies from memory that may be another tensor's by then (issues 139550 and 189690)
    return tensor.to(device, non_blocking=device.type != "mps")


def row_index(rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """Numbers of rows as (n,) int64 on `device`, to index what is there."""
    return sent(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)


def convolution_layout(device: torch.device) -> torch.memory_format:
    """The memory order in which convolutions are fastest on a device, of their weights and of what they read."""
    # PyTorch before 2.14 reads weights in another order than this one wrongly on Apple GPUs (issue 192212)
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a number type, under which `resolve_dtype` knows those of `DTYPES`."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products and convolutions on NVIDIA GPUs in float32, not in TF32 with its 10 bits of fraction.

    PyTorch's default is TF32 for convolutions. Meanwhile this holds for the whole process.
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
    """Bytes of main memory; None if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program may still take; None if the system does not say.

    Of main memory with what can be swapped out, and within the limit of a container.
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
    with suppress(OSError, ValueError):  # a limit of "max" is none
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - _counts(group / "memory.stat").get("anon", 0))  # files give way
    return free


def require_room(needed: int, what: str, device: torch.device) -> None:
    """Raise `HartError` if so many bytes, for what an error calls `what`, are more than `free_memory`."""
    if (free := free_memory(device)) is not None and needed > free:
        raise HartError(
            f"{what} take {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free: choose --dtype bfloat16 "
            "or a smaller model, or end other programs"
        )


def _counts(file: Path) -> dict[str, int]:
    """Names and numbers of a file of the system; none where it is missing."""
    with suppress(OSError):
        lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    return {}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device or the machine has no memory left."""
    if lacks_memory(error) or isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)


class _WithoutValues(TorchFunctionMode):
    """Skips `torch.nn.init`: on the meta device it changes nothing, and the first random number there takes a second,
    in which PyTorch imports its compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are built inside have shapes and types, on the meta device, and neither memory nor values."""
    with torch.device("meta"), _WithoutValues():
        yield


def give_memory(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Give a module that was built `without_memory` memory of any content. dtype: None keeps the types.

    As `Module.to_empty`, for which PyTorch imports its compiler and symbolic algebra: over a second.
    """

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        return torch.empty(tensor.shape, dtype=kept, device=device)

    module._apply(empty)
