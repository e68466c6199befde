"""Reads what `torch.save` wrote without trusting it: a file can be whole and still hold something else."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.errors import HartError
from hart.files import require_regular
from hart.strict import reason


class DamagedError(HartError):
    """Why a run cannot resume from a file; does not name the file."""


def read_saved(path: Path) -> dict[str, Any]:
    """The dictionary in a file, on the CPU. Raises `DamagedError`; `FileError` where there is no such file."""
    require_regular(path)
    try:
        # torch does not check the checksums of its zip file
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise DamagedError(f"{damaged} has another checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except HartError:
        raise
    except OSError as error:
        raise DamagedError(f"cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise DamagedError("it holds objects other than numbers, texts and tensors") from None
    except Exception as error:  # damaged files make the unpickler fail in many ways
        raise DamagedError(reason(error)) from None
    return table(state, "it")


def table(value: Any, what: str, keys: set[str] | None = None) -> dict[Any, Any]:
    """`value`, which must be a dictionary, with exactly these keys where they are given. Raises `DamagedError`."""
    if not isinstance(value, dict):
        raise DamagedError(f"{what} holds a {type(value).__name__} instead of a table")
    if keys is not None and (missing := sorted(keys - value.keys())):
        raise DamagedError(f"{what} lacks {', '.join(missing[:3])}")
    if keys is not None and (unknown := sorted(map(str, value.keys() - keys))):
        raise DamagedError(f"{what} has {', '.join(unknown[:3])}, which this run does not know")
    return value


def require_tensor(value: Any, shape: torch.Size, dtype: torch.dtype, what: str) -> Tensor:
    """`value`, which must be a plain tensor of a shape and type with finite values. Raises `DamagedError`."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise DamagedError(f"{what} is not a plain tensor")
    if value.shape != shape or value.dtype != dtype:
        theirs, ours = f"{value.dtype} {tuple(value.shape)}", f"{dtype} {tuple(shape)}"
        raise DamagedError(f"{what} is {theirs} instead of {ours}".replace("torch.", ""))
    if not bool(value.isfinite().all()):
        raise DamagedError(f"{what} is not finite")
    return value


def require_tensors(saved: Any, expected: Mapping[str, Tensor], what: str) -> None:
    """Raise `DamagedError` unless `saved` has tensors of these names, shapes and types, all finite."""
    values = table(saved, what, set(expected))
    for name, like in expected.items():
        require_tensor(values[name], like.shape, like.dtype, f"{what}: {name}")
