"""Objects in images, by Mask2Former (Cheng et al., 2022) read as mmdetection reads it, and their colours, by CLIP.

GenEval was published with mmdetection's own training of Mask2Former Swin-S on COCO instances, which transformers cannot
load; the authors' weights of the same network are closest. Size, normalisation, scores and boxes follow mmdetection's
test settings, not transformers' post-processing, which resizes to 384 px and returns no boxes.

Shapes: B images, Q queries, C classes, h w mask logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.data.transforms import pil_to_pixels
from hart.errors import HartError
from hart.networks.pretrained import IMAGENET, Frozen, load_frozen, load_text_tokenizer, normalised, short_name

Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
COLOURS: tuple[Colour, ...] = get_args(Colour)
_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
OBJECTS = frozenset(_COCO.split(", "))
"""COCO's 80 classes by the names that the prompts use."""
CONFIDENCE = 0.3
"""Least confidence at which an object counts."""
WORDINGS = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
GREY = (153, 153, 153)
"""Colour around the object, #999."""

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


@dataclass(frozen=True, eq=False)
class Found:
    """A detected object.

    box: (left, top, right, bottom) in pixels, y down. score: 0 to 1. mask: (H, W) bool, its pixels.
    """

    name: str
    box: tuple[int, int, int, int]
    score: float
    mask: Tensor


class Mask2FormerDetector(Frozen):
    """source: folder or hub id. image_size: images are square and are resized to it, in pixels."""

    def __init__(self, source: str, device: torch.device, image_size: int) -> None:
        """Raise `HartError` if it cannot be loaded or does not distinguish COCO's 80 classes."""
        import scipy  # noqa: F401 - transformers requires it after it has read the weights
        from transformers import Mask2FormerForUniversalSegmentation

        network = load_frozen(Mask2FormerForUniversalSegmentation, source, "detector")
        super().__init__(network, short_name(source), device)
        self.image_size = image_size
        self._names = object_names(self.network.config.id2label, source)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[list[Found]]:
        """Return the objects of each image, all square and of one size, with a score above `CONFIDENCE`."""
        image_size = images[0].width
        pixels = torch.stack([pil_to_pixels(image, image_size) for image in images]).to(self.device).float()
        # bilinear without smoothing, as OpenCV resizes for mmdetection
        x = F.interpolate(pixels, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        out = self.network(pixel_values=normalised(x / 255, IMAGENET))
        return [
            instances(classes, masks, self._names, self.image_size, image_size)
            for classes, masks in zip(out.class_queries_logits, out.masks_queries_logits, strict=True)
        ]


def instances(classes: Tensor, masks: Tensor, names: Mapping[int, str], seen: int, image_size: int) -> list[Found]:
    """Return the objects of one image of `image_size` px that the detector saw at `seen` px, as in mmdetection.

    classes: (Q, C + 1) logits, the last of "nothing". masks: (Q, h, w) logits. names: of the classes that count.
    The score is the class's probability times the mean probability of the mask's pixels; the box is the mask's.
    """
    scores = classes.softmax(dim=1)[:, :-1]
    best = scores.flatten().topk(min(MOST_INSTANCES, scores.numel()))
    found = []
    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        query, label = divmod(place, scores.shape[1])
        # the mask can only lower the score
        if score <= CONFIDENCE or label not in names:
            continue
        logits = masks[query][None, None]
        for size in (seen, image_size):
            logits = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
        mask = logits[0, 0] > 0
        sure = score * float(logits[0, 0].sigmoid()[mask].mean())  # NaN for an empty mask, which is not above
        if sure > CONFIDENCE:
            found.append(Found(names[label], _box(mask), sure, mask.cpu()))
    return found


def object_names(labels: Mapping[int, str], source: str) -> dict[int, str]:
    """Map class numbers to GenEval's names, for the classes it knows. Raises `HartError` if one is missing."""
    named = {int(number): ALIASES.get(label, label) for number, label in labels.items()}
    known = {number: name for number, name in named.items() if name in OBJECTS}
    missing = sorted(OBJECTS - set(known.values()))
    if missing:
        raise HartError(
            f"detector {source!r}: lacks {', '.join(missing[:3])}: give one that was trained on COCO's 80 classes"
        )
    return known


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = (mask.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


class ClipColours(Frozen):
    """The colour of a detected object, by zero-shot CLIP: the object is cut out by its mask on grey, cropped to its
    box, and compared with the wordings for each of ten colours. source: folder or hub id with its tokenizer."""

    def __init__(self, source: str, device: torch.device) -> None:
        """Raise `HartError` if it cannot be loaded."""
        from transformers import CLIPImageProcessorPil, CLIPModel

        network, tokenizer = load_frozen(CLIPModel, source, "clip"), load_text_tokenizer(source, "clip")
        super().__init__(network, short_name(source), device, tokenizer)
        image_size = int(self.network.config.vision_config.image_size)
        self._images = CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        )
        self._directions: dict[str, Tensor] = {}

    @torch.inference_mode()
    def __call__(self, image: Image.Image, name: str, objects: Sequence[Found]) -> list[str]:
        """Return the colour of each object of the class `name`."""
        crops = self._images([cut_out(image, item) for item in objects], return_tensors="pt")
        vectors = self.network.get_image_features(crops["pixel_values"].to(self.device)).pooler_output
        likeness = F.normalize(vectors, dim=1) @ self._colours_of(name).T
        return [COLOURS[number] for number in likeness.argmax(dim=1).tolist()]

    def _colours_of(self, name: str) -> Tensor:
        """Return (10, D): the mean direction of the wordings for each colour of a class."""
        if name not in self._directions:
            texts = [wording.format(colour=colour, name=name) for colour in COLOURS for wording in WORDINGS]
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
            out = self.network.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
            directions = F.normalize(out.pooler_output, dim=1).view(len(COLOURS), len(WORDINGS), -1)
            self._directions[name] = F.normalize(directions.mean(dim=1), dim=1)
        return self._directions[name]


def cut_out(image: Image.Image, item: Found) -> Image.Image:
    """Return the object on grey, cropped to its box."""
    grey = Image.new("RGB", image.size, GREY)
    return Image.composite(image.convert("RGB"), grey, Image.fromarray(item.mask.numpy())).crop(item.box)
