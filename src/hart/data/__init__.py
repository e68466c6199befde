"""Captioned images: sets of any format as sources or streams, in memory, encoded; sets of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.data.datasets import CaptionedImages, open_dataset
    from hart.data.encoded import EncodedSet
    from hart.data.opening import open_source
    from hart.data.samples import Damage, DamagedSample, Sample
    from hart.data.sources import Source, Stream
    from hart.data.transforms import ImageTransform, pil_to_pixels, unit_to_pil
    from hart.data.written_sets import begin_set, finish_set

__all__ = [
    "CaptionedImages",
    "Damage",
    "DamagedSample",
    "EncodedSet",
    "ImageTransform",
    "Sample",
    "Source",
    "Stream",
    "begin_set",
    "finish_set",
    "open_dataset",
    "open_source",
    "pil_to_pixels",
    "unit_to_pil",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.data.datasets": "CaptionedImages open_dataset",
        "hart.data.encoded": "EncodedSet",
        "hart.data.opening": "open_source",
        "hart.data.samples": "Damage DamagedSample Sample",
        "hart.data.sources": "Source Stream",
        "hart.data.transforms": "ImageTransform pil_to_pixels unit_to_pil",
        "hart.data.written_sets": "begin_set finish_set",
    },
)
