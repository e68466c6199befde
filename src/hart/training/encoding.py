"""Precomputes what stage `transformer` reads: codes and residual of every image, features of every caption.

Tokenizer and text encoder then run once per set instead of in every step. Shards are written whole or not at all; a
stopped run continues with the missing ones. Several processes can share the shards.

Shapes: see `hart.data.encoded_files`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.data.datasets import CaptionedImages, gather
from hart.data.digests import SetDigest
from hart.data.encoded_files import (
    CAPTION_EDGES,
    CODES,
    FACTS,
    FORMAT,
    LABELS,
    LAST_SCALE,
    SHAPES,
    SHARD,
    TEXT_FEATURES,
    TEXT_MASK,
    TEXT_PLACE,
    WEIGHTS,
    index_file,
    read_facts,
    shard_file,
    stamp_of,
)
from hart.data.kinds import Condition
from hart.data.order import shape_of
from hart.data.read_ahead import read_ahead
from hart.data.samples import Damage, DamagedSample, Sample, require_mostly_sound
from hart.data.sources import DamageCount, Source, Stream, read_row
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError
from hart.files import atomic_write, require_own_folder, write_json
from hart.grids import ScaleSchedule
from hart.sizes import aspect_sizes, schedule_of_size
from hart.text_encoder import TextEncoder, encoder_module, vocabulary_digest
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.encode_options import EncodeOptions

Progress = Callable[[int, int | None, str], None]
"""Called with (shards done, total shards, current activity)."""


@dataclass(frozen=True)
class Encoders:
    """The networks that encode a set, on `device`. text_encoder: None stores only class labels."""

    tokenizer: HybridTokenizer
    text_encoder: TextEncoder | None
    device: torch.device


@dataclass(frozen=True)
class EncodedSummary:
    """What is in the folder now.

    damaged: images left out. finished: all shards and the index exist. cut: captions longer than the text encoder
    reads.
    """

    images: int
    captions: int
    damaged: int
    finished: bool
    cut: int


def require_set_folder(folder: Path) -> None:
    """Raise `FileError` for a folder that holds anything but encoded sets."""
    require_own_folder(folder, rf"{SHARD.pattern}|.+\.json")


@torch.inference_mode()
def encode_dataset(
    source: Source | Stream,
    transform: ImageTransform,
    encoders: Encoders,
    folder: Path,
    split: str,
    options: EncodeOptions,
    progress: Progress = lambda done, total, what: None,
    aspects: Sequence[str] = (),
    note: Callable[[str], None] = lambda said: None,
) -> EncodedSummary:
    """Write the missing shards of this part, and the index once the shards of all parts exist.

    aspects: shapes of the images, as in `ReadingConfig.aspects`, in place of the transform's size.
    note: called with a message about existing shards that cannot be kept.
    Raises `HartError` if the folder holds shards made differently, too many images are damaged, features exceed the
    range of `options.dtype`, or there is no text encoder and no image has a class.
    """
    if transform.random:
        raise HartError("a set that is encoded once cannot have random crops or flips: leave crop and flip as they are")
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise HartError(f"split is {split!r}: it names files, so give a word")
    require_set_folder(folder)
    sizes = aspect_sizes(encoders.tokenizer.config, aspects) if aspects else [(transform.width, transform.height)]
    transforms = [transform.replace(size=size) for size in sizes]
    schedules = [schedule_of_size(encoders.tokenizer.config, size) for size in sizes]
    settings = _settings(source, transform, encoders, split, options)
    settings |= {"schedules": [list(map(list, schedule)) for schedule in schedules]}
    if base := encoders.tokenizer.deciding_scales(schedules):
        settings |= {"base_scales": list(base)}
    if aspects:
        settings |= {"aspects": list(aspects)}
    total = len(source.units) if isinstance(source, Stream) else -(-len(source) // options.shard_size)
    files = [shard_file(folder, split, number) for number in range(total)]
    if encoders.text_encoder is not None and (vocabulary := vocabulary_digest(encoders.text_encoder)):
        settings |= {"vocabulary": vocabulary}
    if encoders.text_encoder is None and isinstance(source, Source) and source.classes:
        names = SetDigest("classes")
        names.add(*source.classes)
        settings |= {"classes": names.hexdigest()}
    stamp = stamp_of(settings)
    stamps = [facts.get("stamp", "") if facts else None for facts in map(read_facts, files)]
    if other := next((file for file, own in zip(files, stamps, strict=True) if own not in (None, stamp)), None):
        raise HartError(
            f"{other} was made from another set, with other encoders or options, or by another version of this "
            "package: give an empty folder, or delete the shards there"
        )
    _require_classes_or_text(source, encoders)
    missing = [number for number, own in enumerate(stamps) if own is None]
    if missing:
        # the index of an older set, or of this one before shards were deleted
        index_file(folder, split).unlink(missing_ok=True)
    part, parts = options.place
    wanted = [number for number in missing if number % parts == part]
    if spoilt := [files[number] for number in wanted if files[number].exists()]:
        more = f" and {len(spoilt) - 1} more" if spoilt[1:] else ""
        note(f"{spoilt[0]}{more}: damaged, or of an earlier version of this package: encoded again")
    condition: Condition = "label" if encoders.text_encoder is None else "caption"
    chunks = partial(_chunks, source, transforms, wanted, options, condition)
    # a stream is one sequence: a second process would only read it twice
    workers = min(options.workers, 1) if isinstance(source, Stream) else options.workers
    damage = DamageCount(source, options.max_damaged, "--max-damaged")
    done = 0
    shard = _Shard(encoders, schedules, options)
    for chunk in read_ahead(chunks, workers):
        for shape, images in chunk.images:
            shard.add(images, shape)
            damage.add(images.damaged, len(images))
        if chunk.last:
            shard.write(files[chunk.shard], stamp)
            shard = _Shard(encoders, schedules, options)
            done += 1
            progress(done, len(wanted), f"shard {chunk.shard + 1}/{total}")
    return _finish(index_file(folder, split), files, settings, source, options)


def _require_classes_or_text(source: Source | Stream, encoders: Encoders) -> None:
    """Raise `HartError` if only classes would be stored and the set has none: every image would count as damaged,
    although none is."""
    if encoders.text_encoder is not None or isinstance(source, Stream) or bool((source.labels >= 0).any()):
        return
    for row in range(len(source)):  # in some formats the class is only known with the row
        with suppress(DamagedSample):
            if source.said(row).label is not None:
                return
    raise HartError(
        f"{source.description}: no image has a class number, and without a text encoder only classes are stored: give "
        "--text-encoder to store captions"
    )


def _settings(
    source: Source | Stream, transform: ImageTransform, encoders: Encoders, split: str, options: EncodeOptions
) -> dict[str, Any]:
    """Return everything that decides the content of the shards; not where the set lies, which may differ by machine."""
    config = encoders.tokenizer.config
    text = encoders.text_encoder
    return {
        "source_digest": source.digest(),
        "split": split,
        "transform": asdict(transform),
        "scales": list(config.scales),
        "tokenizer": fingerprint(encoders.tokenizer, without=HybridTokenizer.DECODING),
        "text_encoder": None if text is None else fingerprint(encoder_module(text)),
        "text_width": None if text is None else text.width,
        "text_tokens": None if text is None else text.config.tokens,
        "text_instruction": text is not None and text.config.instruction,
        "dtype": options.dtype,
        "residual": options.residual,
        "shard_size": options.shard_size,
    }


class _Chunk(NamedTuple):
    """Decoded images of a shard, in order, for each shape that occurs. last: the shard ends here."""

    shard: int
    images: list[tuple[int, CaptionedImages]]
    last: bool


def _chunks(
    source: Source | Stream,
    transforms: Sequence[ImageTransform],
    shards: Sequence[int],
    options: EncodeOptions,
    condition: Condition,
    worker: int,
    workers: int,
) -> Iterator[_Chunk]:
    """Yield the chunks that a worker decodes: its share of a `Source`, all of a `Stream`."""

    def chunk(shard: int, samples: Sequence[Sample | Damage], last: bool) -> _Chunk:
        sorted_samples: dict[int, list[Sample | Damage]] = {}
        for sample in samples:
            sorted_samples.setdefault(shape_of(sample, sizes), []).append(sample)
        gathered = ((i, gather(own, transforms[i], condition, len(own))) for i, own in sorted(sorted_samples.items()))
        return _Chunk(shard, list(gathered), last)

    sizes = [(transform.width, transform.height) for transform in transforms]
    size, step = options.shard_size, options.batch_size
    if isinstance(source, Stream):
        for shard in shards:
            samples = source.read_unit(shard)
            while len(own := list(itertools.islice(samples, step))) == step:
                yield chunk(shard, own, last=False)
            yield chunk(shard, own, last=True)
        return
    plan = []
    for shard in shards:
        end = min((shard + 1) * size, len(source))
        plan += [(shard, range(start, min(start + step, end)), end) for start in range(shard * size, end, step)]
    for shard, rows, end in plan[worker::workers]:
        yield chunk(shard, [read_row(source, row) for row in rows], last=rows.stop == end)


class _Shard:
    """A shard in progress: the stored tensors, chunk by chunk."""

    def __init__(self, encoders: Encoders, schedules: Sequence[ScaleSchedule], options: EncodeOptions) -> None:
        self._encoders = encoders
        self._schedules = schedules
        self._options = options
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._damaged: list[Damage] = []
        self._cut = 0
        config, text = encoders.tokenizer.config, encoders.text_encoder
        self._parts = {
            CODES: [torch.empty(0, dtype=torch.int32)],
            SHAPES: [torch.empty(0, dtype=torch.int64)],
            LABELS: [torch.empty(0, dtype=torch.int64)],
            WEIGHTS: [torch.empty(0, dtype=torch.float32)],
            CAPTION_EDGES: [torch.zeros(1, dtype=torch.int64)],
        }
        if options.residual:
            self._parts[LAST_SCALE] = [torch.empty(0, config.latent_channels, dtype=self._dtype)]
        if text is not None:
            self._parts[TEXT_MASK] = [torch.empty(0, text.config.tokens, dtype=torch.uint8)]
            self._parts[TEXT_PLACE] = [torch.empty(0, 3, dtype=torch.int64)]
            self._parts[TEXT_FEATURES] = [torch.empty(0, text.width, dtype=self._dtype)]

    def add(self, images: CaptionedImages, shape: int) -> None:
        self._damaged += images.damaged
        if not len(images):
            return
        tokenizer, text = self._encoders.tokenizer, self._encoders.text_encoder
        image, schedule = to_signed(images.pixels.to(self._encoders.device)), self._schedules[shape]
        quantized = tokenizer.quantize_image(image, schedule)
        self._parts[CODES].append(torch.cat(quantized.indices, dim=1).int().cpu().flatten())
        self._parts[SHAPES].append(torch.full((len(images),), shape))
        if self._options.residual:
            self._parts[LAST_SCALE].append(self._stored(quantized.last_residual.movedim(1, -1).flatten(0, -2)))
        none = torch.full((len(images),), -1)
        self._parts[LABELS].append(none if images.labels is None else images.labels)
        self._parts[WEIGHTS].append(images.weights)
        # numbers of captions; `write` makes edges of them
        counts = [0 if text is None else len(captions) for captions in images.texts]
        self._parts[CAPTION_EDGES].append(torch.tensor(counts))
        if text is not None:
            self._add_captions([caption for captions in images.texts for caption in captions], text)

    def _add_captions(self, captions: Sequence[str], encoder: TextEncoder) -> None:
        for start in range(0, len(captions), self._options.batch_size):
            batch = captions[start : start + self._options.batch_size]
            context = encoder.encode(batch)
            self._cut += sum(bool(reading.left_out) for reading in encoder.reading(batch))
            self._parts[TEXT_MASK].append(context.mask.cpu().to(torch.uint8))
            for features in self._stored(context.embeddings):
                # padding matters if an encoder gives it features: only all-zero tokens are left out
                used = features.ne(0).any(dim=1).nonzero().flatten().tolist()
                first, last = (used[0], used[-1] + 1) if used else (0, 0)
                self._parts[TEXT_PLACE].append(torch.tensor([[0, first, last - first]]))
                self._parts[TEXT_FEATURES].append(features[first:last])

    def _stored(self, values: Tensor) -> Tensor:
        stored = values.to("cpu", self._dtype)
        if not bool(stored.isfinite().all()):
            raise HartError(f"features are not finite in {self._options.dtype}: store them as bfloat16 or float32")
        return stored

    def write(self, path: Path, stamp: str) -> None:
        tensors = {name: torch.cat(parts) for name, parts in self._parts.items()}
        tensors[CAPTION_EDGES] = tensors[CAPTION_EDGES].cumsum(0)
        if TEXT_PLACE in tensors:
            counts = tensors[TEXT_PLACE][:, 2]
            tensors[TEXT_PLACE][:, 0] = counts.cumsum(0) - counts
        facts = {
            "stamp": stamp,
            "images": len(tensors[LABELS]),
            "captions": int(tensors[CAPTION_EDGES][-1]),
            "cut": self._cut,
            "damaged": [asdict(damage) for damage in self._damaged],
        }
        # one entry: the library writes several in a random order
        atomic_write(path, lambda file: file.write(save(tensors, metadata={FACTS: json.dumps(facts)})))


def _finish(
    index: Path, files: Sequence[Path], settings: dict[str, Any], source: Source | Stream, options: EncodeOptions
) -> EncodedSummary:
    """Return the summary; write the index if no shard is missing, whichever process wrote it."""
    shards = [(file.name, facts) for file in files if (facts := read_facts(file)).get("stamp") == stamp_of(settings)]
    damaged = [*source.damaged]
    damaged += [Damage(**entry) for _, facts in shards for entry in facts["damaged"]]
    images, captions, cut = (sum(facts[what] for _, facts in shards) for what in ("images", "captions", "cut"))
    finished = len(shards) == len(files)
    if finished:
        require_mostly_sound(damaged, images + len(damaged), options.max_damaged, source.description, "--max-damaged")
        if not images:
            raise HartError(f"{source.description}: no image in it could be encoded: give another set")
        content = {
            "format": FORMAT,
            "source": source.description,
            "settings": settings,
            "shards": [
                {"file": name, **{what: facts[what] for what in ("images", "captions")}} for name, facts in shards
            ],
            "damaged": [asdict(damage) for damage in damaged],
        }
        write_json(index, content)
    return EncodedSummary(images, captions, len(damaged), finished, cut)
