"""The colour of a detected object, by CLIP without training, as GenEval asks it.

The object is cut out by its mask on grey, cropped to its box, and compared with "a photo of a COLOUR OBJECT" and two
other wordings for each of ten colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.evaluation.judges.geneval_rules import COLOURS, Found
from hart.networks.pretrained import load_frozen, load_words, short_name

WORDINGS = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
GREY = (153, 153, 153)
"""What surrounds the object, #999."""


class ClipColours:
    """source: folder or hub id of a CLIP model with its tokenizer."""

    def __init__(self, source: str, device: torch.device) -> None:
        """Raises `HartError` for what cannot be loaded."""
        from transformers import CLIPImageProcessorPil, CLIPModel

        self._network = load_frozen(CLIPModel, source, "clip").to(device)
        self._words = load_words(source, "clip")
        side = int(self._network.config.vision_config.image_size)
        self._images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        self._device = device
        self._directions: dict[str, Tensor] = {}
        self.name = short_name(source)
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def __call__(self, image: Image.Image, name: str, objects: Sequence[Found]) -> list[str]:
        """The colour of each object of the class `name`."""
        crops = self._images([cut_out(image, item) for item in objects], return_tensors="pt")
        vectors = self._network.get_image_features(crops["pixel_values"].to(self._device)).pooler_output
        likeness = F.normalize(vectors, dim=1) @ self._colours_of(name).T
        return [COLOURS[number] for number in likeness.argmax(dim=1).tolist()]

    def _colours_of(self, name: str) -> Tensor:
        """(10, D): the mean direction of the wordings for each colour of a class."""
        if name not in self._directions:
            texts = [wording.format(colour=colour, name=name) for colour in COLOURS for wording in WORDINGS]
            tokens = self._words(texts, padding=True, return_tensors="pt").to(self._device)
            out = self._network.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
            directions = F.normalize(out.pooler_output, dim=1).view(len(COLOURS), len(WORDINGS), -1)
            self._directions[name] = F.normalize(directions.mean(dim=1), dim=1)
        return self._directions[name]


def cut_out(image: Image.Image, item: Found) -> Image.Image:
    """The object on grey, cropped to its box; without a mask the box as it is."""
    image = image.convert("RGB")
    if item.mask is not None:
        mask = Image.fromarray(item.mask.numpy())
        image = Image.composite(image, Image.new("RGB", image.size, GREY), mask)
    return image.crop(item.box)
