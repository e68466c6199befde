"""Feature extractors: pictures to vectors, by name. The name stands in every result; features of two are never mixed.

| name | width | side | weights |
|---|---|---|---|
| `efficientnet-lite0` | 1,280 | 224 | a package of the extra `evaluate`; no hub |
| `inception-v3:FILE` | 2,048 | 299, as TensorFlow resized | the FID weights: FILE, or fetched once without it |
| `inception-v3-clean:FILE` | 2,048 | 299, as clean-fid resizes | the same |
| `clip:SOURCE` | projection | the model's | a folder or hub id, through transformers |
| `dinov2:SOURCE` | hidden | 224 | a folder or hub id, through transformers |

Shapes: B batch, D width, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.errors import HartError
from hart.evaluation.published_files import at_hand, cached_file
from hart.files import user_path
from hart.networks.efficientnet import PIXEL_MEAN, PIXEL_SCALE, load_efficientnet_lite0
from hart.networks.inception import SIDE, FidInception, resize_like_clean_fid, resize_like_tensorflow
from hart.networks.pretrained import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    load_frozen,
    normalised,
    short_name,
)

DEFAULT_FEATURES, PUBLISHED_FEATURES = "efficientnet-lite0", "inception-v3"
ROLE = "features"
FEATURES_HELP = "efficientnet-lite0, inception-v3[:FILE], inception-v3-clean[:FILE], clip:SOURCE or dinov2:SOURCE"
INCEPTION_ADDRESS = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d"
"""As the file's name says."""
KINDS = ("efficientnet-lite0", "inception-v3", "inception-v3-clean", "clip", "dinov2")
EXAMPLES = {"clip": "clip:openai/clip-vit-base-patch32", "dinov2": "dinov2:facebook/dinov2-large"}

EFFICIENTNET_SIDE = 224
DINOV2_SIDE = 224
"""What Frechet distances on DINOv2 are published with (Stein et al., 2023), though its table of positions is larger."""


@dataclass(frozen=True)
class Features:
    """Of a batch of pictures, float32 on the CPU.

    pooled: (B, D). spatial: (B, S) with the layout kept, for sFID, or None where none is defined for the network.
    logits: (B, C) over ImageNet's classes, for the Inception Score, or None for networks that do not classify.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pooled)

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """All pictures of one extractor. Raises `HartError` when there are none."""
        if not parts:
            raise HartError("no pictures: there is nothing to take features of")
        return Features(
            torch.cat([part.pooled for part in parts]),
            *(
                torch.cat(values)
                if (values := [value for part in parts if (value := getattr(part, name)) is not None])
                else None
                for name in ("spatial", "logits")
            ),
        )

    def __getitem__(self, rows: Tensor) -> Features:
        """Pooled features of some of the pictures, by number."""
        return Features(self.pooled[rows])


class FeatureExtractor(Protocol):
    """Pictures of any size to features."""

    @property
    def name(self) -> str:
        """Short, for column heads: two extractors with different features have different names."""
        ...

    @property
    def weights(self) -> str:
        """SHA-256 of the weights in hex (`fingerprint`): what makes two results comparable beyond the name."""
        ...

    def __call__(self, pixels: Tensor) -> Features:
        """Features of pictures (B, 3, H, W), uint8, 0 to 255, RGB."""
        ...


def open_extractor(spec: str, device: torch.device, data: Path | None = None) -> FeatureExtractor:
    """The extractor that `spec` names, see the table above, on `device`.

    data: a folder where public weights are looked for by their names before they are fetched (`at_hand`).
    Raises `HartError` for an unknown name, a missing file or source, or weights that cannot be loaded.
    """
    kind, _, source = spec.partition(":")
    if kind not in KINDS:
        raise HartError(f"unknown feature extractor {spec!r}: give {FEATURES_HELP}")
    if kind == "efficientnet-lite0":
        if source:
            raise HartError(f"{spec}: efficientnet-lite0 has its weights in a package: leave {':' + source} out")
        return EfficientNetLite0(device)
    if kind.startswith("inception-v3"):
        file = user_path(source) if source else published_inception(kind, data)
        return InceptionV3(file, device, clean=kind.endswith("clean"))
    if not source:
        raise HartError(f"{kind} needs weights: give {EXAMPLES[kind]}")
    return Embeddings(kind, at_hand(source, data), device)


class EfficientNetLite0:
    """Mean of the last feature map of the ImageNet classifier, and its logits.

    side: pictures are resized to it; the network's own by default. Others belong to other features and another name.
    """

    def __init__(self, device: torch.device, side: int = EFFICIENTNET_SIDE) -> None:
        # a third faster on a CPU than the usual layout
        self._network: Any = load_efficientnet_lite0().to(device, memory_format=torch.channels_last)
        self._device = device
        self._side = side
        self.name = DEFAULT_FEATURES if side == EFFICIENTNET_SIDE else f"{DEFAULT_FEATURES} at {side} px"
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        x = _resized((pixels.to(self._device).float() - PIXEL_MEAN) / PIXEL_SCALE, self._side)
        x = x.contiguous(memory_format=torch.channels_last)
        pooled = self._network.extract_features(x).mean(dim=(2, 3))
        return Features(pooled.cpu(), logits=self._network._fc(pooled).cpu())


class InceptionV3:
    """The network of the published FIDs. Resized as TensorFlow did, as ADM evaluates, with sFID's spatial features.

    clean: fed as clean-fid does, what FIDs on MJHQ-30K are published with. Then only the pooled features: sFID and the
    Inception Score are published with TensorFlow's resizing.
    """

    def __init__(self, file: Path, device: torch.device, *, clean: bool = False) -> None:
        self._network = FidInception.from_file(file).to(device)
        self._device = device
        self._clean = clean
        self.name = "inception-v3-clean" if clean else PUBLISHED_FEATURES
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        if self._clean:
            return Features(self._network(resize_like_clean_fid(pixels, SIDE).to(self._device)).pooled.cpu())
        out = self._network(resize_like_tensorflow(pixels.to(self._device).float(), SIDE))
        return Features(out.pooled.cpu(), out.spatial.cpu(), out.logits.cpu())


class Embeddings:
    """Of a network of transformers. clip: image embeddings as projected to the space of the texts, not normalised.
    dinov2: the class token after the last norm."""

    def __init__(self, kind: str, source: str, device: torch.device) -> None:
        from transformers import CLIPVisionModelWithProjection, Dinov2Model

        clip = kind == "clip"
        self._network = load_frozen(CLIPVisionModelWithProjection if clip else Dinov2Model, source, ROLE).to(device)
        self._side = int(self._network.config.image_size) if clip else DINOV2_SIDE
        self._means = (CLIP_MEAN, CLIP_STD) if clip else (IMAGENET_MEAN, IMAGENET_STD)
        self._output = "image_embeds" if clip else "pooler_output"
        self._device = device
        self.name = f"{kind} {short_name(source)}"
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Features:
        x = _resized(pixels.to(self._device).float() / 255, self._side)
        return Features(getattr(self._network(pixel_values=normalised(x, *self._means)), self._output).float().cpu())


def _resized(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)


def published_inception(kind: str, data: Path | None) -> Path:
    """The file with the FID weights: of `data` if it is there, else fetched at the first call.

    Raises `HartError` with its address.
    """
    if (place := at_hand(INCEPTION_ADDRESS, data)) != INCEPTION_ADDRESS:
        return Path(place)
    instead = f"fetch it elsewhere, and give {kind}:FILE"
    return cached_file(INCEPTION_ADDRESS, instead, sha256_prefix=INCEPTION_SHA256)
