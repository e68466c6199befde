"""Feature extractors: images to vectors, by name. Every result states the name; two extractors are never mixed.

`docs/evaluation.md` has a table of them.

Shapes: B batch, D width, H W image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hart.devices import convolution_layout
from hart.errors import HartError
from hart.evaluation.published_files import at_hand, cached_file
from hart.evaluation.suites.base import FEATURES_HELP, Progress
from hart.files import user_path
from hart.networks.efficientnet import PIXEL_MEAN, PIXEL_SCALE, efficientnet_lite
from hart.networks.inception import IMAGE_SIZE, FidInception, resize_like_clean_fid, resize_like_tensorflow
from hart.networks.pretrained import CLIP, IMAGENET, Frozen, load_frozen, normalised, short_name
from hart.types import Rows

FEATURE_BATCH = 16
"""Images whose features are computed together."""
DEFAULT_FEATURES, PUBLISHED_FEATURES = "efficientnet-lite0", "inception-v3"
ROLE = "features"
INCEPTION_ADDRESS = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"
"""As in the file's name."""
EXAMPLES = {"clip": "clip:openai/clip-vit-base-patch32", "dinov2": "dinov2:facebook/dinov2-large"}

LITE_IMAGE_SIZES = {0: 224, 2: 260}
DINOV2_IMAGE_SIZE = 224
"""As in published Frechet distances on DINOv2 (Stein et al., 2023), though its position table is larger."""


@dataclass(frozen=True)
class Features(Rows):
    """Features of a batch of images, float32 on the CPU.

    pooled: (B, D). spatial: (B, S) with the layout kept, for sFID, or None if the network has none.
    logits: (B, C) over ImageNet's classes, for the Inception Score, or None for networks that do not classify.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pooled)


class FeatureExtractor(Protocol):
    """Maps images of any size to features.

    name: short, for column heads; two extractors with different features have different names. weights: their SHA-256
    in hex (`fingerprint`), which tells whether two results are comparable beyond the name.
    """

    name: str
    weights: str

    def __call__(self, pixels: Tensor) -> Features:
        """Return features of images (B, 3, H, W), uint8, 0 to 255, RGB."""


def open_extractor(spec: str, device: torch.device, data: Path | None = None) -> FeatureExtractor:
    """Open the extractor that `spec` names (`FEATURES_HELP`), on `device`.

    data: a folder where public weights are looked for by name before they are downloaded (`at_hand`).
    Raises `HartError` for an unknown name, a missing file or source, or weights that cannot be loaded.
    """
    kind, _, source = spec.partition(":")
    match kind:
        case "efficientnet-lite0" | "efficientnet-lite2" if source:
            raise HartError(f"{spec}: {kind} has its weights in a package: leave {':' + source} out")
        case "efficientnet-lite0" | "efficientnet-lite2":
            return EfficientNetLite(device, 2 if kind.endswith("2") else 0)
        case "inception-v3" | "inception-v3-clean":
            source = source or at_hand(INCEPTION_ADDRESS, data)
            file = user_path(source)
            if source == INCEPTION_ADDRESS:
                instead = f"fetch it elsewhere, and give {kind}:FILE"
                file = cached_file(INCEPTION_ADDRESS, instead, sha256_prefix=INCEPTION_SHA256)
            return InceptionV3(file, device, clean=kind == "inception-v3-clean")
        case "clip" | "dinov2" if not source:
            raise HartError(f"{kind} needs weights: give {EXAMPLES[kind]}")
        case "clip" | "dinov2":
            return Embeddings(kind, at_hand(source, data), device)
    raise HartError(f"unknown feature extractor {spec!r}: give {FEATURES_HELP}")


class EfficientNetLite(Frozen):
    """Mean of the last feature map of the ImageNet classifier, and its logits.

    size: 0, which the tokenizer's perceptual loss may have learned from, or 2, which no training here used.
    image_size: images are resized to it; by default the network's own. Another size gives other features, with another
        name.
    """

    def __init__(self, device: torch.device, size: Literal[0, 2] = 0, image_size: int | None = None) -> None:
        self._image_size = LITE_IMAGE_SIZES[size] if image_size is None else image_size
        name = f"efficientnet-lite{size}"
        name = name if self._image_size == LITE_IMAGE_SIZES[size] else f"{name} at {self._image_size} px"
        # a third faster on a CPU than the usual layout
        super().__init__(efficientnet_lite(size).to(memory_format=convolution_layout(device)), name, device)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        x = _resized((pixels.to(self.device).float() - PIXEL_MEAN) / PIXEL_SCALE, self._image_size)
        x = x.contiguous(memory_format=convolution_layout(self.device))
        pooled = self.network.extract_features(x).mean(dim=(2, 3))
        return Features(pooled.cpu(), logits=self.network._fc(pooled).cpu())


class InceptionV3(Frozen):
    """The network of published FIDs, resizing like TensorFlow and ADM's evaluator, with sFID's spatial features.

    clean: images are fed as in clean-fid, with which FIDs on MJHQ-30K are published. Then it gives only pooled
    features, since sFID and the Inception Score are published with TensorFlow's resizing.
    """

    def __init__(self, file: Path, device: torch.device, *, clean: bool = False) -> None:
        super().__init__(FidInception.from_file(file), "inception-v3-clean" if clean else PUBLISHED_FEATURES, device)
        self._clean = clean

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        if self._clean:
            return Features(self.network(resize_like_clean_fid(pixels, IMAGE_SIZE).to(self.device)).pooled.cpu())
        out = self.network(resize_like_tensorflow(pixels.to(self.device).float(), IMAGE_SIZE))
        return Features(out.pooled.cpu(), out.spatial.cpu(), out.logits.cpu())


class Embeddings(Frozen):
    """Features of a network of transformers. clip: image embeddings as projected to the space of the texts, not
    normalised. dinov2: the class token after the last norm."""

    def __init__(self, kind: str, source: str, device: torch.device) -> None:
        from transformers import CLIPVisionModelWithProjection, Dinov2Model

        clip = kind == "clip"
        network = load_frozen(CLIPVisionModelWithProjection if clip else Dinov2Model, source, ROLE)
        super().__init__(network, f"{kind} {short_name(source)}", device)
        self._image_size = int(self.network.config.image_size) if clip else DINOV2_IMAGE_SIZE
        self._colours = CLIP if clip else IMAGENET
        self._output = "image_embeds" if clip else "pooler_output"

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        x = _resized(pixels.to(self.device).float() / 255, self._image_size)
        return Features(getattr(self.network(pixel_values=normalised(x, self._colours)), self._output).float().cpu())


def extracted(
    batches: Iterable[Tensor], extractor: FeatureExtractor, progress: Progress, count: int | None, what: str
) -> Features:
    """Return features of images in batches (B, 3, H, W), uint8. count: in total, and what: the text, for `progress`."""
    parts: list[Features] = []
    for pixels in batches:
        progress(sum(map(len, parts)), count, what)
        parts.append(extractor(pixels))
    return Rows.cat(parts)


def _resized(pixels: Tensor, image_size: int) -> Tensor:
    if pixels.shape[-2:] == (image_size, image_size):
        return pixels
    return F.interpolate(pixels, size=(image_size, image_size), mode="bicubic", antialias=True)
