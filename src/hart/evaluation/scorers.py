"""How well a picture fits its words, or how people would like it: one number a picture and prompt, from given weights.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.features import CLIP_MEAN, CLIP_STD
from hart.evaluation.pretrained import load_frozen, load_words, short_name
from hart.evaluation.report import Progress


class Scorer(Protocol):
    """Pictures and their prompts to numbers."""

    @property
    def name(self) -> str:
        """For column heads, with what it depends on."""
        ...

    @property
    def weights(self) -> str:
        """SHA-256 of the weights in hex."""
        ...

    @property
    def side(self) -> int:
        """Side of the pictures that it takes."""
        ...

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) float64 of pictures (B, 3, side, side) uint8 and as many prompts."""
        ...


class ClipScore:
    """100 times the cosine of a CLIP model's image and text embeddings, at least 0 (Hessel et al., 2021, as usual now).

    Computed with plain transformers. A prompt longer than the model's table of positions (77) is cut, its end token
    kept.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        """source: folder or hub id with model and tokenizer. Raises `HartError` when it cannot be loaded."""
        self._embeddings = ClipPair(source, device, "CLIP score")
        self.name = f"CLIP score ({short_name(source)})"
        self.weights = self._embeddings.weights
        self.side = self._embeddings.side

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * self._embeddings.cosines(pixels, prompts).clamp(min=0)


class HpsV2:
    """100 times the cosine in the CLIP model that HPS v2 (Wu et al., 2023) tuned on people's choices."""

    def __init__(self, source: str, device: torch.device) -> None:
        """source: a folder or hub id with the weights in the layout of transformers. Raises `HartError`."""
        self._embeddings = ClipPair(source, device, "HPS v2")
        self.name = f"HPS v2 ({short_name(source)})"
        self.weights = self._embeddings.weights
        self.side = self._embeddings.side

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * self._embeddings.cosines(pixels, prompts)


class ClipPair:
    """Both towers of a CLIP model of transformers, with its tokenizer."""

    def __init__(self, source: str, device: torch.device, role: str) -> None:
        """role: what it is for, as errors call it."""
        from transformers import CLIPModel

        self._network = load_frozen(CLIPModel, source, role).to(device)
        self._words = load_words(source, role)
        self._device = device
        self._mean, self._std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        self._positions = int(self._network.config.text_config.max_position_embeddings)
        self.side = int(self._network.config.vision_config.image_size)
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def cosines(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) float64 on the CPU; see `Scorer.__call__`."""
        words = self._words(
            list(prompts), padding=True, truncation=True, max_length=self._positions, return_tensors="pt"
        ).to(self._device)
        out = self._network(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=(pixels.to(self._device).float() / 255 - self._mean) / self._std,
        )
        # both are of length 1
        return (out.image_embeds * out.text_embeds).double().sum(dim=1).cpu()


def score_drawn(
    drawn: DrawnPictures, prompts: Sequence[str], scorer: Scorer, batch_size: int, progress: Progress
) -> Tensor:
    """(N,) float64: the score of every drawn picture with its prompt."""
    scores = []
    for start in range(0, len(drawn), batch_size):
        progress(start, len(drawn), scorer.name)
        numbers = range(start, min(start + batch_size, len(drawn)))
        # resized bicubically by Pillow to whole values, as CLIP's own preprocessing does
        scores.append(scorer(drawn.pixels(numbers, scorer.side), [prompts[i] for i in numbers]))
    return torch.cat(scores)
