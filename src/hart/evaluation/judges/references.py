"""Scores images by reference images: how close an image comes to what its prompt names, according to an image network.

`scorer.safetensors` in a model's folder holds names and the features of one reference image each, on their first
principal axes. A prompt's own reference is a mixture of the names nearest to it, by the model's text encoder.

Shapes: B images, N names, D width of the network's features, A axes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.errors import HartError
from hart.evaluation.metrics.features import EfficientNetLite
from hart.strict import reason
from hart.text_encoder import TextEncoder

AXES = 96
NEAREST, SHARPNESS = 5, 20.0
"""Names mixed in a prompt's reference, and the factor on their cosines in the softmax."""
REFERENCE_SIZE = 128
"""Size in pixels at which the network sees images and references."""
ENCODE_BATCH = 128


class ReferenceScore:
    """A `hart.evaluation.judges.scores.Scorer`: the mean cosine, from -1 to 1, with a prompt's references."""

    image_size = REFERENCE_SIZE

    def __init__(self, file: Path, encoder: TextEncoder, device: torch.device) -> None:
        """encoder: the model's. Raises `HartError` if the file is missing or damaged."""
        stored = read_safetensors(file)
        try:
            names = [str(name) for name in json.loads(bytes(stored["names"].tolist()))]
            mean, axes, references = (stored[name].float() for name in ("mean", "axes", "references"))
            width, kept = axes.shape
            if not names or (mean.shape, references.shape) != ((width,), (len(names), kept)):
                raise ValueError("names, axes and references do not fit each other")
        except (KeyError, TypeError, ValueError) as error:
            advice = "take the one that the model was published with"
            raise HartError(f"{file}: not a scorer of this version ({reason(error)}): {advice}") from None
        self._mean, self._axes, self._references = mean, axes, references
        self._network = EfficientNetLite(device, image_size=REFERENCE_SIZE)
        self.name, self.weights = f"references ({self._network.name})", self._network.weights
        self._encoder = encoder
        batches = (names[start : start + ENCODE_BATCH] for start in range(0, len(names), ENCODE_BATCH))
        self._texts = torch.cat([self._meant(batch) for batch in batches])

    def _meant(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self._encoder.encode(list(texts)).embeddings[:, 0].float().cpu(), dim=1)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        cosine, near = (self._meant(prompts) @ self._texts.T).topk(min(NEAREST, len(self._texts)), dim=1)
        weights = (SHARPNESS * cosine).softmax(dim=1)
        seen = on_axes(self._network(pixels).pooled, self._mean, self._axes)
        return (weights * torch.einsum("ba,bna->bn", seen, self._references[near])).sum(dim=1).double()


def on_axes(features: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Return (B, A) of length 1 for features (B, D)."""
    return F.normalize((features - mean) @ axes, dim=1)


def write_references(file: Path, names: Sequence[str], features: Tensor, every: Tensor) -> None:
    """Write a scorer: names, and the network's features (N, D) of an image of each. every: (M, D), of many images,
    whose principal axes are used."""
    mean = every.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the decomposition is randomised
        axes = torch.pca_lowrank(every - mean, q=min(AXES, *every.shape), niter=2)[2]
    listed = json.dumps(list(names), ensure_ascii=False).encode()
    tensors = {
        "mean": mean.half(),
        "axes": axes.half().contiguous(),
        "names": torch.tensor(list(listed), dtype=torch.uint8),
    }
    tensors["references"] = on_axes(features, tensors["mean"].float(), tensors["axes"].float()).half()
    write_safetensors(file, tensors)
