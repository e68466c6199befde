"""Batches of pictures as `.npz`, the form that ADM's evaluator reads (Dhariwal and Nichol, 2021).

They are read with distrust: what a header declares must be what the file holds.

    arr_0                     pictures (N, H, W, 3), uint8
    arr_1                     classes (N,), int64; ADM's sampler writes them, its evaluator does not read them
    mu, sigma, mu_s, sigma_s  only in reference batches: means and covariances of Inception-v3's pooled and spatial
                              features, over the whole data set

50,000 pictures of 256 px are 9.8 GB: they are written and read a batch at a time.

Shapes: N pictures of a file, B of a batch, H W image, D width of a feature.
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

from hart.data.samples import one_line
from hart.errors import HartError
from hart.evaluation.metrics.distances import Gaussian, SetStatistics
from hart.files import atomic_write, require_regular

PICTURES, CLASSES = "arr_0", "arr_1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
BYTE = np.dtype(np.uint8)
LARGEST_SIDE = 4096
"""Of a picture, in pixels."""
FORM = "ADM's batches have arr_0, 8-bit pictures of N x height x width x 3"
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


def write_samples(path: Path, batches: Iterable[Tensor], size: int, classes: Sequence[int]) -> None:
    """Write pictures, in batches (B, 3, size, size) uint8, with the class of each.

    The file appears whole or not at all. Raises `OSError`, for a full disk too.
    """
    header = {"shape": (len(classes), size, size, 3), "fortran_order": False, "descr": npy.dtype_to_descr(BYTE)}

    def write(file: BinaryIO) -> None:
        # stored, not compressed, as numpy.savez does; an entry made here has no time: equal pictures give equal files
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo(f"{PICTURES}.npy"), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for batch in batches:
                    member.write(batch.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            with archive.open(zipfile.ZipInfo(f"{CLASSES}.npy"), "w") as member:
                npy.write_array(member, np.asarray(classes, dtype=np.int64))

    atomic_write(path, write)


class SampleFile:
    """Pictures of an `.npz`, read from the disk whenever they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises `HartError` for what is not in the form above."""
        self.path = path
        with self._member(PICTURES) as (member, length):
            self._count, self.height, self.width, _ = self._read_shape(member, length)

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int) -> Iterator[Tensor]:
        """All pictures (B, 3, H, W), uint8, `size` at a time."""
        with self._member(PICTURES) as (member, length):
            _, *shape = self._read_shape(member, length)
            for start in range(0, len(self), size):
                part = (min(size, len(self) - start), *shape)
                try:
                    content = bytearray(member.read(math.prod(part)))
                except UNREADABLE as error:
                    raise self._damaged(one_line(error)) from None
                if len(content) != math.prod(part):
                    raise HartError(f"{self.path}: ends before its last picture: copy or download it again")
                yield torch.frombuffer(content, dtype=torch.uint8).view(part).permute(0, 3, 1, 2)

    @property
    def has_statistics(self) -> bool:
        """Whether it holds any of those of the whole set that it is a part of."""
        return not {f"{name}.npy" for name in STATISTICS}.isdisjoint(self._opened().namelist())

    def statistics(self) -> SetStatistics:
        """Of the whole set that a reference batch is a part of. Raises `HartError` where one is missing."""
        return SetStatistics(*(self._gaussian(*names) for names in (STATISTICS[:2], STATISTICS[2:])))

    def _gaussian(self, mean_name: str, covariance_name: str) -> Gaussian:
        mean = self._floats(mean_name, (None,))
        covariance = self._floats(covariance_name, (len(mean), len(mean)))
        if not torch.allclose(covariance, covariance.T):
            raise HartError(f"{self.path}: {covariance_name} is no covariance: give a reference batch of ADM")
        return Gaussian.from_covariance(mean, covariance)

    def _floats(self, name: str, shape: Sequence[int | None]) -> Tensor:
        with self._member(name) as (member, size):
            try:
                return read_floats(member, size, shape)
            except ArrayError as error:
                raise HartError(f"{self.path}: {name}: {error}: give a reference batch of ADM") from None

    def _read_shape(self, member: IO[bytes], size: int) -> tuple[int, int, int, int]:
        """Of the pictures; the stream then stands at the first of them."""
        try:
            shape, dtype = read_header(member, size)
        except ArrayError as error:
            raise self._damaged(str(error)) from None
        if dtype != BYTE or len(shape) != 4 or shape[3] != 3 or 0 in shape or max(shape[1:3]) > LARGEST_SIDE:
            raise HartError(f"{self.path}: {PICTURES} holds {dtype} of {sides(shape)}: {FORM}")
        return shape[0], shape[1], shape[2], shape[3]

    @contextmanager
    def _member(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """A stream of one array's file, and its length."""
        with self._opened() as archive:
            try:
                info = archive.getinfo(f"{name}.npy")
                member = archive.open(info)
            except KeyError:
                raise HartError(f"{self.path}: has no {name}: {FORM}") from None
            except UNREADABLE as error:
                raise self._damaged(one_line(error)) from None
            with member:
                yield member, info.file_size

    def _opened(self) -> zipfile.ZipFile:
        require_regular(self.path)
        try:
            return zipfile.ZipFile(self.path)
        except UNREADABLE as error:
            raise HartError(f"{self.path}: no readable .npz ({one_line(error)}): {FORM}") from None

    def _damaged(self, reason: str) -> HartError:
        return HartError(f"{self.path}: damaged ({reason}): copy or download it again")
