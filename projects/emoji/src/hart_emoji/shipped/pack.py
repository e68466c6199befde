"""Packs a set of captioned images into a few small files, for a machine without network access.

    PACK/images.safetensors     images as lossless WebP sheets, captions, weights
    PACK/perceptual.safetensors   the perceptual network's weights
    PACK/site/                    the package that implements the network, in pure Python

A sheet holds images of one concept and style side by side, such as the skin tones of a person: together they take 70%
of the space that they would take one by one.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import lzma
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hart import HartError
from hart.checkpoint import read_safetensors, save_module, write_safetensors
from hart.data import CaptionedImages, Damage, open_dataset
from hart.training import perceptual_loss

IMAGES, PERCEPTUAL, SITE = "images.safetensors", "perceptual.safetensors", "site"
NETWORK = "efficientnet_lite_pytorch"
SET_SUFFIXES = (".tar", ".parquet", ".jsonl")
WIDEST = 100
"""Most images per sheet; WebP limits each side to 16,383 pixels."""


def write_pack(source: str, pack: Path, *, split: str, size: int) -> tuple[dict[str, int], tuple[Damage, ...]]:
    """Pack a split of any set that training reads, or a folder of vector files and their captions.

    Returns the size in bytes of each part by name, and the images left out because they cannot be read.
    """
    files = sorted(path for path in Path(source).rglob("*") if path.is_file())
    vectors = [path for path in files if path.suffix.lower() == ".svg"]
    # a drawing may lie beside the images of a set
    is_set = any(path.suffix.lower() in {*Image.registered_extensions(), *SET_SUFFIXES} for path in files)
    data = open_dataset(source, split, size) if is_set or not vectors else vector_images(vectors, size)
    data.require_captions()
    order, groups = sheets(data)
    blobs = [encoded(data.pixels[rows]) for rows in groups]
    captions = json.dumps([data.texts[row] for row in order], ensure_ascii=False).encode()
    tensors = {
        "sheets": as_bytes(b"".join(blobs)),
        "sheet_bytes": torch.tensor([len(blob) for blob in blobs]),
        "sheet_images": torch.tensor([len(rows) for rows in groups]),
        "captions": as_bytes(lzma.compress(captions)),
        "weights": data.weights[order],
        "size": torch.tensor(size),
    }
    write_safetensors(pack / IMAGES, tensors)
    write_perceptual(pack)
    written = [path for path in sorted(pack.rglob("*")) if path.is_file()]
    return {path.relative_to(pack).as_posix(): path.stat().st_size for path in written}, data.damaged


def write_perceptual(pack: Path) -> None:
    """Write the perceptual network. Raises `HartError` if its packages are not installed."""
    save_module(pack / PERCEPTUAL, perceptual_loss("efficientnet_lite0"))
    spec = importlib.util.find_spec(NETWORK)
    assert spec is not None
    assert spec.origin is not None
    files = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(spec.origin).parent, pack / SITE / NETWORK, ignore=files, dirs_exist_ok=True)


def read_pack(pack: Path) -> CaptionedImages:
    """Return what `write_pack` packed, decoded. Raises `HartError` if a file is missing or incomplete."""
    tensors = read_safetensors(pack / IMAGES)
    size = int(tensors["size"])
    texts = json.loads(lzma.decompress(tensors["captions"].numpy().tobytes()))
    pixels = torch.empty(len(texts), 3, size, size, dtype=torch.uint8)
    blobs, counts = tensors["sheets"].numpy(), tensors["sheet_images"].tolist()
    byte_ends = tensors["sheet_bytes"].cumsum(0).tolist()
    if not (len(blobs) == byte_ends[-1] and sum(counts) == len(texts) == len(tensors["weights"])):
        raise HartError(f"{pack / IMAGES}: its parts do not fit together: pack the set again")

    def decode(sheet: int, first: int) -> None:
        start = byte_ends[sheet - 1] if sheet else 0
        image = Image.open(io.BytesIO(blobs[start : byte_ends[sheet]].tobytes())).convert("RGB")
        strip = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        pixels[first : first + counts[sheet]] = strip.unflatten(2, (-1, size)).permute(2, 0, 1, 3)

    firsts = itertools.accumulate(counts, initial=0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, range(len(counts)), firsts))
    return CaptionedImages(pixels, tuple(map(tuple, texts)), tensors["weights"], ({},) * len(texts))


def sheets(data: CaptionedImages) -> tuple[list[int], list[list[int]]]:
    """Return the rows in the pack's order, and the rows of each sheet."""

    def group(row: int) -> tuple[str, str]:
        record: Any = data.records[row]
        return str(record.get("concept", row)), str(record.get("style", ""))

    order = sorted(range(len(data)), key=lambda row: (*group(row), str(data.records[row].get("skin_tone") or "")))
    groups = [rows for _, same in itertools.groupby(order, group) for rows in batches(list(same), WIDEST)]
    return order, groups


def batches(rows: Sequence[int], most: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), most):
        yield list(rows[start : start + most])


def encoded(pixels: Tensor) -> bytes:
    """Encode (N, 3, H, W) uint8 as one image, N * H wide."""
    strip = torch.cat(list(pixels), dim=2).permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(strip, "RGB").save(file, format="WEBP", lossless=True, quality=60, method=4)
    return file.getvalue()


def as_bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def vector_images(files: Sequence[Path], size: int) -> CaptionedImages:
    """Render vector files. Captions are the lines of a `.txt` beside each, or the words of its name."""
    from hart_emoji.data.build import render

    pixels, texts, damaged = [], [], list[Damage]()
    for file in files:
        image = render(file.read_text(encoding="utf-8"), size)
        if image is None:
            damaged.append(Damage(str(file), "cannot be rendered, or is blank"))
            continue
        beside = file.with_suffix(".txt")
        lines = beside.read_text(encoding="utf-8").splitlines() if beside.exists() else [file.stem.replace("-", " ")]
        pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        texts.append(tuple(line.strip() for line in lines if line.strip()))
    if not pixels:
        raise HartError("none of the vector files could be rendered")
    count = len(texts)
    return CaptionedImages(torch.stack(pixels), tuple(texts), torch.ones(count), ({},) * count, tuple(damaged))
