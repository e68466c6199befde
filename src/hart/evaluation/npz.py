"""Batches of images as `.npz`, the format of ADM's evaluator (Dhariwal and Nichol, 2021).

    arr_0                     images (N, H, W, 3), uint8
    arr_1                     classes (N,), int64; ADM's sampler writes them, its evaluator does not read them
    mu, sigma, mu_s, sigma_s  only in reference batches: means and covariances of Inception-v3's pooled and spatial
                              features, over the whole data set

50,000 images of 256 px are 9.8 GB, so they are written and read one batch at a time.
"""

from __future__ import annotations

import math
import zipfile
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
from hart.evaluation.published_files import readable
from hart.files import atomic_write, require_regular
from hart.networks.inception import POOLED, SPATIAL

IMAGES, CLASSES = "arr_0", "arr_1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
FORM = "ADM's batches have arr_0, 8-bit images of N x height x width x 3"


def write_samples(path: Path, batches: Iterable[Tensor], size: int, classes: Sequence[int]) -> None:
    """Write images, in batches (B, 3, size, size) uint8, with the class of each.

    The file appears whole or not at all. Raises `OSError`, for a full disk too.
    """
    header = {"shape": (len(classes), size, size, 3), "fortran_order": False, "descr": "|u1"}

    def write(file: BinaryIO) -> None:
        # stored, not compressed, like numpy.savez; entries made here have no time, so equal images give equal files
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo(f"{IMAGES}.npy"), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for batch in batches:
                    member.write(batch.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            with archive.open(zipfile.ZipInfo(f"{CLASSES}.npy"), "w") as member:
                npy.write_array(member, np.asarray(classes, dtype=np.int64))

    atomic_write(path, write)


class SampleFile:
    """Images of an `.npz`, read from disk at each access."""

    def __init__(self, path: Path) -> None:
        """Raise `HartError` for a file of another form."""
        self.path = path
        require_regular(path)
        with readable(path), zipfile.ZipFile(path) as archive:
            self._names = {name.removesuffix(".npy") for name in archive.namelist()}
        if IMAGES not in self._names:
            raise HartError(f"{path}: has no {IMAGES}: {FORM}")
        with self._images() as (_, self._shape):
            self.height, self.width = self._shape[1:3]

    def __len__(self) -> int:
        return self._shape[0]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield all images (B, 3, H, W), uint8, `size` at a time."""
        with self._images() as (member, _):
            for start in range(0, len(self), size):
                part = (min(size, len(self) - start), *self._shape[1:])
                content = bytearray(member.read(math.prod(part)))
                yield torch.frombuffer(content, dtype=torch.uint8).view(part).permute(0, 3, 1, 2)

    @property
    def has_statistics(self) -> bool:
        """Return whether it holds any statistics of the whole set that it is a part of."""
        return not self._names.isdisjoint(STATISTICS)

    def statistics(self) -> SetStatistics:
        """Return the statistics of a reference batch's whole set. Raises `HartError` if one is missing or invalid."""
        with readable(self.path), np.load(self.path) as arrays:
            mu, sigma, mu_s, sigma_s = (arrays[name].astype(np.float64) for name in STATISTICS)
        return SetStatistics(self._gaussian(POOLED, mu, sigma), self._gaussian(SPATIAL, mu_s, sigma_s))

    def _gaussian(self, width: int, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
        fits = (mean.shape, covariance.shape) == ((width,), (width, width))
        finite = np.isfinite(mean).all() and np.isfinite(covariance).all()
        if not (fits and finite and np.allclose(covariance, covariance.T)):
            raise HartError(
                f"{self.path}: {', '.join(STATISTICS)} are not means and covariances of Inception-v3's features: "
                "give a reference batch of ADM"
            )
        return Gaussian.from_covariance(torch.from_numpy(mean), torch.from_numpy(covariance))

    @contextmanager
    def _images(self) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """Give a stream at the first value of the images, and their shape."""
        with readable(self.path), zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as member:
            shape, fortran, dtype = HEADERS[npy.read_magic(member)](member)
            if fortran or dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
                held = " x ".join(map(str, shape))
                raise HartError(f"{self.path}: {IMAGES} holds {dtype} of {held}: {FORM}")
            if math.prod(shape) != archive.getinfo(f"{IMAGES}.npy").file_size - member.tell():
                raise ValueError(f"{IMAGES} holds other than it declares")
            yield member, shape
