"""Batches of images as `.npz`, the form that ADM's evaluator reads (Dhariwal and Nichol, 2021).

    arr_0                     images (N, H, W, 3), uint8
    arr_1                     classes (N,), int64; ADM's sampler writes them, its evaluator does not read them
    mu, sigma, mu_s, sigma_s  only in reference batches: means and covariances of Inception-v3's pooled and spatial
                              features, over the whole data set

50,000 images of 256 px are 9.8 GB: they are written and read a batch at a time. What a header declares must be what the
file holds.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from hart.errors import HartError
from hart.evaluation.metrics.distances import Gaussian, SetStatistics
from hart.files import atomic_write, require_regular
from hart.strict import reason

IMAGES, CLASSES = "arr_0", "arr_1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
BYTE = np.dtype(np.uint8)
LARGEST_SIDE = 4096
"""Of an image, in pixels."""
FORM = "ADM's batches have arr_0, 8-bit images of N x height x width x 3"
REMEDY = "give a reference batch of ADM"
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
UNREADABLE = (
    ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, OSError, EOFError, RuntimeError,
    NotImplementedError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and the zip library raise for files that are damaged, encrypted or of another format."""
BYTES_LIMIT = 2**31
"""Of an array that is read at once."""


def write_samples(path: Path, batches: Iterable[Tensor], size: int, classes: Sequence[int]) -> None:
    """Write images, in batches (B, 3, size, size) uint8, with the class of each.

    The file appears whole or not at all. Raises `OSError`, for a full disk too.
    """
    header = {"shape": (len(classes), size, size, 3), "fortran_order": False, "descr": npy.dtype_to_descr(BYTE)}

    def write(file: BinaryIO) -> None:
        # stored, not compressed, as numpy.savez does; an entry made here has no time: equal images give equal files
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo(f"{IMAGES}.npy"), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for batch in batches:
                    member.write(batch.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            with archive.open(zipfile.ZipInfo(f"{CLASSES}.npy"), "w") as member:
                npy.write_array(member, np.asarray(classes, dtype=np.int64))

    atomic_write(path, write)


class SampleFile:
    """Images of an `.npz`, read from the disk whenever they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises `HartError` for a file of another form."""
        self.path = path
        with self._array(IMAGES) as (_, shape, dtype):
            if dtype != BYTE or len(shape) != 4 or shape[3] != 3 or 0 in shape or max(shape[1:3]) > LARGEST_SIDE:
                raise HartError(f"{path}: {IMAGES} holds {dtype} of {_shape_text(shape)}: {FORM}")
        self._shape = shape
        self.height, self.width = shape[1:3]

    def __len__(self) -> int:
        return self._shape[0]

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images (B, 3, H, W), uint8, `size` at a time."""
        with self._array(IMAGES) as (member, _, _):
            for start in range(0, len(self), size):
                part = (min(size, len(self) - start), *self._shape[1:])
                content = self._read(member, math.prod(part))
                yield torch.frombuffer(content, dtype=torch.uint8).view(part).permute(0, 3, 1, 2)

    @property
    def has_statistics(self) -> bool:
        """Whether it holds any of those of the whole set that it is a part of."""
        with self._opened() as archive:
            return not {f"{name}.npy" for name in STATISTICS}.isdisjoint(archive.namelist())

    def statistics(self) -> SetStatistics:
        """Of the whole set that a reference batch is a part of. Raises `HartError` where one is missing."""
        return SetStatistics(*(self._gaussian(*names) for names in (STATISTICS[:2], STATISTICS[2:])))

    def _gaussian(self, mean_name: str, covariance_name: str) -> Gaussian:
        mean = self._floats(mean_name, 1)
        covariance = self._floats(covariance_name, 2, len(mean))
        if not torch.allclose(covariance, covariance.T):
            raise HartError(f"{self.path}: {covariance_name} is no covariance: {REMEDY}")
        return Gaussian.from_covariance(mean, covariance)

    def _floats(self, name: str, dimensions: int, size: int | None = None) -> Tensor:
        """Finite numbers as float64, of `size` in each dimension."""
        with self._array(name) as (member, shape, dtype):
            if len(shape) != dimensions or {*shape} - {size or shape[0]} or dtype.kind != "f":
                raise HartError(f"{self.path}: {name}: it holds {dtype} of {_shape_text(shape)}: {REMEDY}")
            content = self._read(member, math.prod(shape) * dtype.itemsize)
        values = torch.from_numpy(np.frombuffer(content, dtype).reshape(shape).astype(np.float64))
        if not bool(values.isfinite().all()):
            raise HartError(f"{self.path}: {name}: its values are not finite: {REMEDY}")
        return values

    def _read(self, member: IO[bytes], count: int) -> bytearray:
        content = bytearray(member.read(count))
        if len(content) != count:
            raise self._damaged("it ends before its last number")
        return content

    @contextmanager
    def _array(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
        """A stream at the first value of an array in rows, its shape and its type; errors of reading it are damage."""
        file = f"{name}.npy"
        try:
            with self._opened() as archive:
                if file not in archive.namelist():
                    raise HartError(f"{self.path}: has no {name}: {FORM}")
                with archive.open(file) as member:
                    shape, fortran, dtype = READERS[npy.read_magic(member)](member)
                    if fortran or dtype.hasobject or any(type(size) is not int or size < 0 for size in shape):
                        raise self._damaged(f"{name}: an array of {dtype} in another order, or of objects")
                    found = archive.getinfo(file).file_size - member.tell()
                    if found != math.prod(shape) * dtype.itemsize or (name in STATISTICS and found > BYTES_LIMIT):
                        held = f"{dtype} of {_shape_text(shape)} and has {found} bytes"
                        raise self._damaged(f"{name}: it declares {held}")
                    yield member, shape, dtype
        except HartError:
            raise
        except UNREADABLE as error:
            raise self._damaged(f"{name}: {reason(error)}") from None

    def _opened(self) -> zipfile.ZipFile:
        require_regular(self.path)
        try:
            return zipfile.ZipFile(self.path)
        except UNREADABLE as error:
            raise HartError(f"{self.path}: no readable .npz ({reason(error)}): {FORM}") from None

    def _damaged(self, reason: str) -> HartError:
        return HartError(f"{self.path}: damaged ({reason}): copy or download it again")


def _shape_text(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " x ".join(f"{size:.6g}" for size in shape)
