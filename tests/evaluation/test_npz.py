"""Batches of images as ADM's evaluator has them: numpy reads what is written, and what numpy writes is read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hart.errors import HartError
from hart.evaluation import npz
from hart.evaluation.npz import SampleFile, write_samples


def images(count: int = 7, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, height, width, 3), dtype=np.uint8)


def read(file: SampleFile, size: int) -> np.ndarray:
    return torch.cat(list(file.batches(size))).permute(0, 2, 3, 1).numpy()


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    array, path = images(), tmp_path / "samples.npz"
    batches = torch.from_numpy(array).permute(0, 3, 1, 2).split(3)
    write_samples(path, iter(batches), 6, [5, 4, 3, 2, 1, 0, 9])
    with np.load(path) as written:
        assert set(written) == {"arr_0", "arr_1"}
        np.testing.assert_array_equal(written["arr_0"], array)
        assert written["arr_1"].tolist() == [5, 4, 3, 2, 1, 0, 9]
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
        # the evaluator streams arrays with such a header, and takes all others into memory
        assert np.lib.format.read_magic(member) == (1, 0)
    np.testing.assert_array_equal(read(SampleFile(path), 2), array)
    first = path.read_bytes()
    write_samples(path, iter(batches), 6, [5, 4, 3, 2, 1, 0, 9])
    assert path.read_bytes() == first


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(save: Any, tmp_path: Path) -> None:
    array = images(5, 4, 8)
    save(tmp_path / "batch.npz", array)
    file = SampleFile(tmp_path / "batch.npz")
    assert (len(file), file.height, file.width) == (5, 4, 8)
    for size in (1, 2, 5, 64):
        np.testing.assert_array_equal(read(file, size), array)
    assert not file.has_statistics


STATISTICS = {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": np.eye(2)}


def test_statistics_of_a_reference_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "POOLED", 6)
    monkeypatch.setattr(npz, "SPATIAL", 3)
    features = np.random.default_rng(1).normal(size=(50, 6))
    values = {"mu": features.mean(axis=0), "sigma": np.cov(features, rowvar=False), "mu_s": np.zeros(3),
              "sigma_s": np.eye(3)}  # fmt: skip
    np.savez(tmp_path / "reference.npz", arr_0=images(), **values)
    file = SampleFile(tmp_path / "reference.npz")
    assert file.has_statistics
    found = file.statistics()
    for gaussian, mean, covariance in (
        (found.pooled, values["mu"], values["sigma"]),
        (found.spatial, values["mu_s"], values["sigma_s"]),
    ):
        np.testing.assert_allclose(gaussian.mean, mean)
        np.testing.assert_allclose(gaussian.factor.T @ gaussian.factor, covariance, atol=1e-12)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": images()}, "has no arr_0"),
        ({"arr_0": images().astype(np.float32)}, "arr_0 holds float32 of 7 x 6 x 6 x 3"),
        ({"arr_0": images()[..., :1]}, "arr_0 holds uint8 of 7 x 6 x 6 x 1"),
        ({"arr_0": images()[:0]}, "arr_0 holds uint8 of 0 x"),
        ({"mu": np.zeros(3)}, "cannot be read .*sigma is not a file in the archive"),
        ({"mu": np.array([None] * 3)}, "cannot be read .*allow_pickle"),
        *(
            (STATISTICS | wrong, "are not means and covariances of Inception-v3's")
            for wrong in (
                {"sigma": np.eye(2)}, {"mu": np.full(3, np.nan)}, {"sigma": np.triu(np.ones((3, 3)))},
                {"sigma_s": np.full((2, 2), np.inf)}, {"mu": np.zeros(4), "sigma": np.eye(4)},
            )
        ),
    ],
)  # fmt: skip
def test_other_forms_are_one_line(
    arrays: dict[str, np.ndarray], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "POOLED", 3)
    monkeypatch.setattr(npz, "SPATIAL", 2)
    images_too = {} if "images" in arrays else {"arr_0": images()}
    np.savez(tmp_path / "batch.npz", **images_too | arrays)
    with pytest.raises(HartError, match=rf"batch\.npz: .*{said}"):
        SampleFile(tmp_path / "batch.npz").statistics()


@pytest.mark.parametrize("shape", ["(999999999, 6, 6, 3)", "(7, -6, -6, 3)", "(((((("])
def test_what_a_header_declares_is_not_believed(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + images().tobytes()
    with zipfile.ZipFile(tmp_path / "batch.npz", "w") as archive:
        archive.writestr("arr_0.npy", content)
    with pytest.raises(HartError, match=r"batch\.npz: (cannot be read|arr_0 holds uint8 of 7 x -6)"):
        SampleFile(tmp_path / "batch.npz")


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    with pytest.raises(HartError, match="no such file"):
        SampleFile(path)
    np.savez(path, images(200))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HartError, match=r"batch\.npz: cannot be read .*not a zip file"):
        SampleFile(path)
    path.write_bytes(whole[:5000] + bytes(100) + whole[5100:])
    file = SampleFile(path)
    with pytest.raises(HartError, match="cannot be read"):
        list(file.batches(16))


def test_a_stopped_writing_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Any:
        yield torch.zeros(2, 3, 6, 6, dtype=torch.uint8)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_samples(tmp_path / "samples.npz", failing(), 6, [0] * 4)
    assert not list(tmp_path.iterdir())
