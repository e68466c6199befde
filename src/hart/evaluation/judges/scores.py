"""How well an image fits its prompt, or how much people would like it: one number per image, from given weights.

`scorer.safetensors` in a model's folder holds names and the features of one reference image each, on their first
principal axes.

Shapes: B images, N names, D width of an image network's features, A axes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.errors import HartError
from hart.evaluation.metrics.features import EfficientNetLite
from hart.networks.image_reward import MOST_TOKENS, load_image_reward
from hart.networks.pretrained import CLIP, Frozen, load_frozen, load_text_tokenizer, normalised, short_name
from hart.strict import reason
from hart.text_encoder import TextEncoder

CLIP_SCORE = "CLIP score"
AXES = 96
NEAREST, SHARPNESS = 5, 20.0
"""Names mixed in a prompt's reference, and the factor on their cosines in the softmax."""
REFERENCE_SIZE = 128
"""Size in pixels at which the network sees images and references."""
ENCODE_BATCH = 128


class Scorer(Protocol):
    """Scores images with their prompts. name: for column heads, with what it depends on. weights: SHA-256 in hex.
    image_size: of the images that it takes."""

    name: str
    weights: str
    image_size: int

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return (B,) float64 for images (B, 3, image_size, image_size) uint8 and as many prompts."""


class ClipScore(Frozen):
    """100 times the cosine of a CLIP model's image and text embeddings.

    As "CLIP score" at least 0 (Hessel et al., 2021, as is usual now); as "HPS v2" with the CLIP model that Wu et al.
    (2023) tuned on people's choices, in transformers' layout. A prompt longer than the model's position table (77) is
    truncated, keeping its end token.
    """

    def __init__(self, source: str, device: torch.device, role: str = CLIP_SCORE) -> None:
        """source: folder or hub id with model and tokenizer. Raises `HartError` if it cannot be loaded."""
        from transformers import CLIPModel

        network, tokenizer = load_frozen(CLIPModel, source, role), load_text_tokenizer(source, role)
        super().__init__(network, f"{role} ({short_name(source)})", device, tokenizer)
        self._least = 0.0 if role == CLIP_SCORE else -100.0
        self._positions = int(self.network.config.text_config.max_position_embeddings)
        self.image_size = int(self.network.config.vision_config.image_size)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._positions, return_tensors="pt"
        ).to(self.device)
        out = self.network(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=normalised(pixels.to(self.device).float() / 255, CLIP),
        )
        # both have length 1
        cosines = (out.image_embeds * out.text_embeds).cpu().double().sum(dim=1)
        return (100 * cosines).clamp(min=self._least)


class ImageReward(Frozen):
    """The reward, in standard deviations from its mean over the images that it was published with."""

    def __init__(self, file: Path, tokenizer: str, device: torch.device) -> None:
        """file: `ImageReward.pt`. tokenizer: folder or hub id of BERT's text tokenizer. Raises `HartError`."""
        name = "ImageReward"
        super().__init__(load_image_reward(file), name, device, load_text_tokenizer(tokenizer, name))
        self.image_size = int(self.network.vision.config.image_size)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        ).to(self.device)
        seen = normalised(pixels.to(self.device).float() / 255, CLIP)
        return self.network(seen, tokens["input_ids"], tokens["attention_mask"])


class ReferenceScore:
    """Scores by reference images: how close an image comes to what its prompt names, according to an image network. The
    mean cosine, from -1 to 1, with the prompt's own references, a mixture of those of the names nearest to it by the
    model's text encoder."""

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
