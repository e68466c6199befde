"""Arrays in NumPy's format, read with distrust: what the header declares must be what the file holds."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from hart.data.samples import one_line
from hart.errors import HartError

READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
UNREADABLE = (
    ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OSError, EOFError, RuntimeError,
    NotImplementedError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and the zip library raise for files that are damaged, encrypted or of another format."""
BYTES_LIMIT = 2**31
"""Of an array that is read at once."""


class ArrayError(HartError):
    """Why there is no array of the form that is asked for; does not name the file."""


def read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in rows, in a file of `size` bytes, which then stands at the first value.

    Raises `ArrayError`, also where the file is not as long as that takes.
    """
    try:
        shape, fortran, dtype = READERS[npy.read_magic(file)](file)
        start = file.tell()
    except UNREADABLE as error:
        raise ArrayError(one_line(error)) from None
    if fortran or dtype.hasobject or any(type(side) is not int or side < 0 for side in shape):
        raise ArrayError(f"an array of {dtype} in another order, or of objects")
    if start + math.prod(shape) * dtype.itemsize != size:
        raise ArrayError(f"it declares {dtype} of {sides(shape)} and has {size - start} bytes")
    return shape, dtype


def read_floats(file: IO[bytes], size: int, shape: Sequence[int | None]) -> Tensor:
    """Finite floating-point numbers of a shape, whose None are any sides, as float64. Raises `ArrayError`."""
    found, dtype = read_header(file, size)
    wanted = [side if side is not None else other for side, other in zip(shape, found, strict=False)]
    if len(found) != len(shape) or list(found) != wanted or dtype.kind != "f" or size > BYTES_LIMIT:
        raise ArrayError(f"it holds {dtype} of {sides(found)}")
    try:
        content = file.read(math.prod(found) * dtype.itemsize)
        values = torch.from_numpy(np.frombuffer(content, dtype).reshape(found).astype(np.float64))
    except UNREADABLE as error:
        raise ArrayError(one_line(error)) from None
    if not bool(values.isfinite().all()):
        raise ArrayError("its values are not finite")
    return values


def sides(shape: Sequence[int]) -> str:
    """A shape for people."""
    return " x ".join(f"{side:.6g}" for side in shape)
