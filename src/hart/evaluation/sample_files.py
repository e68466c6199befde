"""Batches of pictures as `.npz`, the form that ADM's evaluator reads (Dhariwal and Nichol, 2021).

    arr_0                     pictures (N, H, W, 3), uint8
    arr_1                     classes (N,), int64; ADM's sampler writes them, its evaluator does not read them
    mu, sigma, mu_s, sigma_s  only in reference batches: means and covariances of Inception-v3's pooled and spatial
                              features, over the whole data set

50,000 pictures of 256 px are 9.8 GB: they are written and read a batch at a time.

Shapes: N pictures of a file, B of a batch, H W image, D width of a feature.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from hart.data.samples import one_line
from hart.errors import HartError
from hart.evaluation.comparison import SetStatistics
from hart.evaluation.statistics import Gaussian
from hart.files import atomic_write

PICTURES, CLASSES = "arr_0", "arr_1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
BYTE = np.dtype(np.uint8)
FORM = "ADM's batches have arr_0, 8-bit pictures of N x height x width x 3"


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
        with self._member(PICTURES) as member:
            self._count, self.height, self.width, _ = self._read_shape(member)

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int) -> Iterator[Tensor]:
        """All pictures (B, 3, H, W), uint8, `size` at a time."""
        with self._member(PICTURES) as member:
            _, *shape = self._read_shape(member)
            for start in range(0, len(self), size):
                part = (min(size, len(self) - start), *shape)
                try:
                    content = bytearray(member.read(math.prod(part)))
                except (zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
                    raise self._damaged(error) from None
                if len(content) != math.prod(part):
                    raise HartError(f"{self.path}: ends before its last picture: copy or download it again")
                yield torch.frombuffer(content, dtype=torch.uint8).view(part).permute(0, 3, 1, 2)

    @property
    def has_statistics(self) -> bool:
        """Whether it holds any of those of the whole set that it is a part of."""
        with self._opened() as archive:
            return not {f"{name}.npy" for name in STATISTICS}.isdisjoint(archive.namelist())

    def statistics(self) -> SetStatistics:
        """Of the whole set that a reference batch is a part of. Raises `HartError` where one is missing."""
        means, covariances = ([self._array(name) for name in STATISTICS[start::2]] for start in (0, 1))
        for mean, covariance in zip(means, covariances, strict=True):
            if mean.dim() != 1 or covariance.shape != (len(mean), len(mean)):
                raise HartError(
                    f"{self.path}: a mean of {tuple(mean.shape)} with a covariance of {tuple(covariance.shape)}: "
                    "give a reference batch of ADM"
                )
        return SetStatistics(*map(Gaussian.from_covariance, means, covariances))

    def _array(self, name: str) -> Tensor:
        with self._member(name) as member:
            try:
                return torch.from_numpy(npy.read_array(member)).double()
            except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
                raise self._damaged(error) from None

    def _read_shape(self, member: IO[bytes]) -> tuple[int, int, int, int]:
        """Of the pictures; the stream then stands at the first of them."""
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        try:
            shape, fortran, dtype = readers[npy.read_magic(member)](member)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from None
        if dtype != BYTE or fortran or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise HartError(f"{self.path}: {PICTURES} holds {dtype} of {' x '.join(map(str, shape))}: {FORM}")
        return shape

    def _member(self, name: str) -> IO[bytes]:
        """A stream of one array's file; it keeps the archive open as long as it is read."""
        with self._opened() as archive:
            try:
                return archive.open(f"{name}.npy")
            except KeyError:
                raise HartError(f"{self.path}: has no {name}: {FORM}") from None

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise HartError(f"{self.path}: no such file") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise HartError(f"{self.path}: no readable .npz ({one_line(error)}): {FORM}") from None

    def _damaged(self, error: Exception) -> HartError:
        return HartError(f"{self.path}: damaged ({one_line(error)}): copy or download it again")
