"""Precompute what stage `transformer` reads: codes and rest of every picture, features of every caption.

The tokenizer and the text encoder then run once a set and not once a step. Shards are written whole or not at all; a
run that was stopped goes on with the first shard that is not there. Several processes can share the shards.

Shapes: see `hart.data.encoded_files`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.data.chunks import Chunk, ChunkSizes, decoded_chunks
from hart.data.encoded_files import (
    CAPTION_EDGES,
    CODES,
    FACTS,
    FORMAT,
    LABELS,
    LAST_SCALE,
    TEXT_FEATURES,
    TEXT_MASK,
    TEXT_PLACE,
    WEIGHTS,
    index_file,
    read_facts,
    shard_file,
    stamp_of,
)
from hart.data.loader import MIN_SEEN
from hart.data.samples import Condition, Damage, require_mostly_sound
from hart.data.sources import Source, Stream
from hart.data.transforms import ImageTransform, to_signed
from hart.data.written_sets import require_own_folder
from hart.errors import HartError
from hart.files import atomic_write
from hart.text_encoder import TextEncoder, encoder_module
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

StoredType = Literal["float16", "bfloat16", "float32"]

Progress = Callable[[int, int | None, str], None]
"""Called with (shards done, shards in all, what is being done)."""


@dataclass(frozen=True)
class Encoders:
    """What runs over the set, already on `device`. text_encoder: None stores class labels only."""

    tokenizer: HybridTokenizer
    text_encoder: TextEncoder | None
    device: torch.device


@dataclass(frozen=True)
class EncodeOptions:
    """How a set is stored.

    dtype: of rests and text features. residual: store the rests (hybrid models need them).
    shard_size: pictures a shard of a set with rows; a stream makes a shard of each of its units.
    batch_size: pictures encoded together. workers: processes that decode.
    part, parts: this process writes every `parts`-th shard, beginning with `part` (from 0).
    max_damaged: share of damaged pictures above which the run gives up.
    """

    dtype: StoredType = "float16"
    residual: bool = True
    shard_size: int = 1024
    batch_size: int = 32
    workers: int = 0
    part: int = 0
    parts: int = 1
    max_damaged: float = 0.05

    def __post_init__(self) -> None:
        if min(self.shard_size, self.batch_size) < 1 or self.workers < 0:
            raise HartError("shard_size and batch_size must be at least 1, workers at least 0")
        if not 0 <= self.part < self.parts:
            raise HartError(f"part {self.part + 1} of {self.parts}: parts count from 1 to their number")
        if self.dtype not in {"float16", "bfloat16", "float32"}:
            raise HartError(f"dtype is {self.dtype!r}: give float16, bfloat16 or float32")


@dataclass(frozen=True)
class EncodedSummary:
    """What is in the folder now.

    damaged: pictures left out. finished: all shards are there, and the index. cut: captions that are longer than the
    text encoder reads, as far as the shards say (those of before did not).
    """

    pictures: int
    captions: int
    damaged: int
    finished: bool
    cut: int = 0


@dataclass
class _Shard:
    """A shard in the making."""

    codes: list[Tensor] = field(default_factory=list)
    rests: list[Tensor] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    edges: list[int] = field(default_factory=lambda: [0])
    masks: list[Tensor] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    rows: int = 0
    cut: int = 0
    damaged: list[Damage] = field(default_factory=list)


@torch.inference_mode()
def encode_dataset(
    source: Source | Stream,
    transform: ImageTransform,
    encoders: Encoders,
    folder: Path,
    split: str,
    options: EncodeOptions,
    progress: Progress = lambda done, total, what: None,
) -> EncodedSummary:
    """Write the shards of this part that are not there yet, and the index once all shards of all parts are.

    Raises `HartError` when the folder holds shards made otherwise, when too many pictures are damaged, or when
    features leave the range of `options.dtype`.
    """
    if transform.random:
        raise HartError("a set that is encoded once cannot have random crops or flips: leave crop and flip as they are")
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise HartError(f"split is {split!r}: it names files, so give a word")
    folder.mkdir(parents=True, exist_ok=True)
    require_own_folder(folder, r".+-\d{5,}\.safetensors|.+\.json")
    settings = _settings(source, transform, encoders, split, options)
    stamp = stamp_of(settings)
    total = len(source.units) if isinstance(source, Stream) else -(-len(source) // options.shard_size)
    done = {number for number in range(total) if _is_done(shard_file(folder, split, number), stamp)}
    wanted = [number for number in range(total) if number % options.parts == options.part and number not in done]
    if len(done) < total:
        # one of an older set, or of this one before shards were deleted
        index_file(folder, split).unlink(missing_ok=True)
    count = len(wanted)
    damaged: list[Damage] = []
    seen = 0
    shard = _Shard()
    condition: Condition = "none" if encoders.text_encoder is None else "caption"
    sizes = ChunkSizes(options.shard_size, options.batch_size, options.workers)
    for chunk in decoded_chunks(source, transform, wanted, sizes, condition):
        _encode_chunk(shard, chunk, encoders, options)
        damaged += chunk.damaged
        seen += len(chunk.labels) + len(chunk.damaged)
        least = MIN_SEEN if isinstance(source, Stream) else len(source)
        require_mostly_sound(damaged, max(seen, least), options.max_damaged, source.description, "--max-damaged")
        if chunk.last:
            _write_shard(shard_file(folder, split, chunk.shard), shard, encoders, options, stamp)
            shard = _Shard()
            done.add(chunk.shard)
            progress(count - len(set(wanted) - done), count, f"shard {chunk.shard + 1}/{total}")
    return _finish(folder, split, total, done, settings, stamp, source, options)


def _settings(
    source: Source | Stream, transform: ImageTransform, encoders: Encoders, split: str, options: EncodeOptions
) -> dict[str, Any]:
    """All that decides what is in the shards."""
    config = encoders.tokenizer.config
    text = encoders.text_encoder
    return {
        "source": source.description,
        "source_digest": source.digest(),
        "split": split,
        "transform": asdict(transform),
        "scales": list(config.scales),
        "tokenizer": fingerprint(encoders.tokenizer),
        "text_encoder": None if text is None else fingerprint(encoder_module(text)),
        "text_width": None if text is None else text.width,
        "text_tokens": None if text is None else text.config.tokens,
        "text_instruction": text is not None and text.config.instruction,
        "dtype": options.dtype,
        "residual": options.residual,
        "shard_size": options.shard_size,
    }


def _encode_chunk(shard: _Shard, chunk: Chunk, encoders: Encoders, options: EncodeOptions) -> None:
    shard.damaged += chunk.damaged
    if not len(chunk.labels):
        return
    quantized = encoders.tokenizer.quantize(encoders.tokenizer.encode(to_signed(chunk.pixels.to(encoders.device))))
    shard.codes.append(torch.cat(quantized.indices, dim=1).int().cpu())
    if options.residual:
        shard.rests.append(_stored(quantized.last_rest.flatten(2).transpose(1, 2), options.dtype))
    shard.labels += chunk.labels
    shard.weights += chunk.weights
    if encoders.text_encoder is not None:
        _encode_captions(shard, chunk.captions, encoders.text_encoder, options)


def _encode_captions(
    shard: _Shard, captions: Sequence[Sequence[str]], encoder: TextEncoder, options: EncodeOptions
) -> None:
    for own in captions:
        shard.edges.append(shard.edges[-1] + len(own))
    flat = [caption for own in captions for caption in own]
    for start in range(0, len(flat), options.batch_size):
        batch = flat[start : start + options.batch_size]
        context = encoder.encode(batch)
        shard.cut += sum(bool(reading.left_out) for reading in encoder.reading(batch))
        embeddings = _stored(context.embeddings, options.dtype)
        shard.masks.append(context.mask.cpu().to(torch.uint8))
        for features in embeddings:
            # padding counts where an encoder gives it features: only tokens that are zero throughout are left out
            used = features.ne(0).any(dim=1).nonzero().flatten().tolist()
            first, last = (used[0], used[-1] + 1) if used else (0, 0)
            shard.places.append((shard.rows, first, last - first))
            shard.features.append(features[first:last])
            shard.rows += last - first


def _stored(values: Tensor, dtype: StoredType) -> Tensor:
    stored = values.to("cpu", getattr(torch, dtype))
    if not bool(stored.isfinite().all()):
        raise HartError(f"features are not finite in {dtype}: store them as bfloat16 or float32")
    return stored


def _write_shard(path: Path, shard: _Shard, encoders: Encoders, options: EncodeOptions, stamp: str) -> None:
    schedule, dtype = encoders.tokenizer.config.schedule, getattr(torch, options.dtype)
    pictures = len(shard.labels)
    tensors = {
        CODES: _joined(shard.codes, (0, schedule.total_tokens), torch.int32),
        LABELS: torch.tensor(shard.labels, dtype=torch.int64),
        WEIGHTS: torch.tensor(shard.weights, dtype=torch.float32),
        CAPTION_EDGES: torch.tensor(shard.edges if len(shard.edges) > 1 else [0] * (pictures + 1), dtype=torch.int64),
    }
    if options.residual:
        channels = encoders.tokenizer.config.latent_channels
        tensors[LAST_SCALE] = _joined(shard.rests, (0, schedule.token_counts[-1], channels), dtype)
    if encoders.text_encoder is not None:
        tokens, width = encoders.text_encoder.config.tokens, encoders.text_encoder.width
        tensors[TEXT_MASK] = _joined(shard.masks, (0, tokens), torch.uint8)
        tensors[TEXT_PLACE] = torch.tensor(shard.places, dtype=torch.int64).view(-1, 3)
        tensors[TEXT_FEATURES] = _joined(shard.features, (0, width), dtype)
    facts = {
        "stamp": stamp,
        "pictures": pictures,
        "captions": len(shard.places),
        "cut": shard.cut,
        "damaged": [asdict(damage) for damage in shard.damaged],
    }
    # one entry: the library writes several in an order that changes from run to run
    atomic_write(path, lambda file: file.write(save(tensors, metadata={FACTS: json.dumps(facts)})))


def _joined(parts: Sequence[Tensor], empty: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.cat(list(parts)).contiguous() if parts else torch.empty(empty, dtype=dtype)


def _is_done(path: Path, stamp: str) -> bool:
    facts = read_facts(path)
    if facts and facts.get("stamp") != stamp:
        raise HartError(
            f"{path} was made from another set, with other encoders or with other options: "
            "give an empty folder, or delete the shards there"
        )
    return bool(facts)


def _finish(
    folder: Path,
    split: str,
    total: int,
    done: Iterable[int],
    settings: dict[str, Any],
    stamp: str,
    source: Source | Stream,
    options: EncodeOptions,
) -> EncodedSummary:
    """Sum up; write the index if no shard is missing, whichever process wrote it."""
    files = [shard_file(folder, split, number) for number in range(total)]
    facts = [read_facts(file) for file in files]
    present = [fact for fact in facts if fact.get("stamp") == stamp]
    damaged = [] if isinstance(source, Stream) else list(source.damaged)
    for fact in present:
        damaged += [Damage(**entry) for entry in fact["damaged"]]
    pictures, captions = (sum(fact[name] for fact in present) for name in ("pictures", "captions"))
    finished = len(present) == total
    if finished:
        require_mostly_sound(damaged, pictures + len(damaged), options.max_damaged, source.description, "--max-damaged")
        shards = [
            {"file": file.name, "pictures": fact["pictures"], "captions": fact["captions"]}
            for file, fact in zip(files, facts, strict=True)
        ]
        index = {"format": FORMAT, "settings": settings, "shards": shards, "damaged": [asdict(one) for one in damaged]}
        atomic_write(index_file(folder, split), lambda file: file.write(json.dumps(index, indent=1).encode()))
    cut = sum(fact.get("cut", 0) for fact in present)
    return EncodedSummary(pictures, captions, len(damaged), finished, cut)
