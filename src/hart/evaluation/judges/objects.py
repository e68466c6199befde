"""Objects in pictures: Mask2Former (Cheng et al., 2022) through transformers, read as mmdetection reads it.

GenEval was published with mmdetection's own training of Mask2Former Swin-S on COCO instances, which transformers cannot
load; the authors' weights of the same network are the nearest. Size, normalisation, scores and boxes follow
mmdetection's test settings, and not transformers' post-processing, which resizes to 384 px and takes no boxes.

Shapes: B pictures, Q queries, C classes, h w mask logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.data.transforms import pil_to_pixels
from hart.errors import HartError
from hart.evaluation.judges.geneval_rules import CONFIDENCE, OBJECTS, Found
from hart.networks.pretrained import IMAGENET_MEAN, IMAGENET_STD, load_frozen, normalised, short_name

SIDE = 800
"""Pixels that the detector sees, as mmdetection tests."""
MOST_INSTANCES = 100
ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}
"""Other names of COCO's classes in label files."""


class Mask2FormerDetector:
    """source: folder or hub id. side: pictures are square and are resized to it, in pixels."""

    def __init__(self, source: str, device: torch.device, side: int = SIDE) -> None:
        """Raises `HartError` for what cannot be loaded, or does not tell COCO's 80 classes."""
        from transformers import Mask2FormerForUniversalSegmentation

        try:
            import scipy  # noqa: F401 - transformers asks for it, and says so only in several lines
        except ModuleNotFoundError:
            raise HartError("scipy is not installed: run pip install 'hart[evaluate]'") from None
        self._network = load_frozen(Mask2FormerForUniversalSegmentation, source, "detector").to(device)
        self._device = device
        self.side = side
        self._names = object_names(self._network.config.id2label, source)
        self.name = short_name(source)
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[list[Found]]:
        """Objects of each picture, all square and of one size, with a score above `CONFIDENCE`."""
        side = images[0].width
        pixels = torch.stack([pil_to_pixels(image, side) for image in images]).to(self._device).float()
        # bilinear without smoothing, as OpenCV resizes for mmdetection
        x = F.interpolate(pixels, size=(self.side, self.side), mode="bilinear", align_corners=False)
        out = self._network(pixel_values=normalised(x / 255, IMAGENET_MEAN, IMAGENET_STD))
        return [
            instances(classes, masks, self._names, self.side, side)
            for classes, masks in zip(out.class_queries_logits, out.masks_queries_logits, strict=True)
        ]


def instances(classes: Tensor, masks: Tensor, names: Mapping[int, str], seen: int, side: int) -> list[Found]:
    """Objects of one picture of `side` px that the detector saw at `seen` px, as mmdetection takes them.

    classes: (Q, C + 1) logits, the last of "nothing". masks: (Q, h, w) logits. names: of the classes that count.
    The score is the class's probability times the mean probability of the mask's pixels; the box is the mask's.
    """
    scores = classes.softmax(dim=1)[:, :-1]
    best = scores.flatten().topk(min(MOST_INSTANCES, scores.numel()))
    found = []
    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        query, label = divmod(place, scores.shape[1])
        # no mask raises the score
        if score <= CONFIDENCE or label not in names:
            continue
        logits = masks[query][None, None]
        for size in (seen, side):
            logits = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
        mask = logits[0, 0] > 0
        if not mask.any():
            continue
        sure = score * float(logits[0, 0].sigmoid()[mask].mean())
        if sure > CONFIDENCE:
            found.append(Found(names[label], _box(mask), sure, mask.cpu()))
    return found


def object_names(labels: Mapping[int, str], source: str) -> dict[int, str]:
    """Number of a class -> GenEval's name of it, for those that it knows. Raises `HartError` when one is missing."""
    named = {int(number): ALIASES.get(label, label) for number, label in labels.items()}
    known = {number: name for number, name in named.items() if name in OBJECTS}
    missing = sorted(OBJECTS - set(known.values()))
    if missing:
        raise HartError(
            f"detector {source!r}: tells no {', '.join(missing[:3])}: give one that was trained on COCO's 80 classes"
        )
    return known


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = (mask.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
