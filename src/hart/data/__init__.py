"""Sets of captioned images: of any format, read at random or as a stream, kept in memory, pre-encoded, or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.data.datasets import CaptionedImages, open_dataset
    from hart.data.encoded import EncodedBatch, EncodedLoader, EncodedSet
    from hart.data.images import open_image
    from hart.data.kinds import Condition, Kind
    from hart.data.loader import ImageBatch, ImageLoader
    from hart.data.notes import Columns, Note
    from hart.data.opening import detect_kind, open_source
    from hart.data.samples import Damage, DamagedSample, Sample
    from hart.data.sources import Listed, Located, Source, Stream
    from hart.data.transforms import ImageTransform, pil_to_pixels, to_signed, unit_to_pil
    from hart.data.written_sets import begin_set, finish_set

# fmt: off
__all__ = [
    "CaptionedImages", "Columns", "Condition", "Damage", "DamagedSample", "EncodedBatch", "EncodedLoader",
    "EncodedSet", "ImageBatch", "ImageLoader", "ImageTransform", "Kind", "Listed", "Located", "Note", "Sample",
    "Source", "Stream", "begin_set", "detect_kind", "finish_set", "open_dataset", "open_image", "open_source",
    "pil_to_pixels", "to_signed", "unit_to_pil",
]
# fmt: on
__getattr__, __dir__ = lazy(__name__)
