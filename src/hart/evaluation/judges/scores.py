"""How well a picture fits its words, or how people would like it: one number a picture and prompt, from given weights.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.suites.base import Progress
from hart.networks.image_reward import (
    MOST_TOKENS,
    PUBLISHED,
    REWARD_DEVIATION,
    REWARD_MEAN,
    RewardSizes,
    load_image_reward,
)
from hart.networks.pretrained import CLIP_MEAN, CLIP_STD, load_frozen, load_words, normalised, short_name


class Scorer(Protocol):
    """Pictures and their prompts to numbers. name: for column heads, with what it depends on. weights: SHA-256 in hex.
    side: of the pictures that it takes."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> str: ...

    @property
    def side(self) -> int: ...

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) float64 of pictures (B, 3, side, side) uint8 and as many prompts."""
        ...


class ClipScore:
    """100 times the cosine of a CLIP model's image and text embeddings.

    As "CLIP score" at least 0 (Hessel et al., 2021, as usual now); as "HPS v2" in the CLIP model that Wu et al. (2023)
    tuned on people's choices, in the layout of transformers. A prompt longer than the model's table of positions (77)
    is cut, its end token kept.
    """

    def __init__(self, source: str, device: torch.device, role: str = "CLIP score") -> None:
        """source: folder or hub id with model and tokenizer. Raises `HartError` when it cannot be loaded."""
        from transformers import CLIPModel

        self._network = load_frozen(CLIPModel, source, role).to(device)
        self._words = load_words(source, role)
        self._device = device
        self._least = 0.0 if role == "CLIP score" else None
        self._positions = int(self._network.config.text_config.max_position_embeddings)
        self.side = int(self._network.config.vision_config.image_size)
        self.name = f"{role} ({short_name(source)})"
        self.weights = fingerprint(self._network)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        words = self._words(
            list(prompts), padding=True, truncation=True, max_length=self._positions, return_tensors="pt"
        ).to(self._device)
        out = self._network(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=normalised(pixels.to(self._device).float() / 255, CLIP_MEAN, CLIP_STD),
        )
        # both are of length 1
        cosines = 100 * (out.image_embeds * out.text_embeds).double().sum(dim=1).cpu()
        return cosines if self._least is None else cosines.clamp(min=self._least)


class ImageReward:
    """The reward, in deviations from its mean over the pictures that it was published with."""

    name = "ImageReward"

    def __init__(self, file: Path, words: str, device: torch.device, sizes: RewardSizes = PUBLISHED) -> None:
        """file: `ImageReward.pt`. words: folder or hub id of BERT's text tokenizer. Raises `HartError`."""
        self._network = load_image_reward(file, sizes).to(device)
        self._words = load_words(words, self.name)
        self._device = device
        self.weights = fingerprint(self._network)
        self.side = sizes.side

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        words = self._words(
            list(prompts), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        ).to(self._device)
        seen = normalised(pixels.to(self._device).float() / 255, CLIP_MEAN, CLIP_STD)
        raw = self._network(seen, words["input_ids"], words["attention_mask"])
        return (raw.double().cpu() - REWARD_MEAN) / REWARD_DEVIATION


def score_drawn(
    drawn: DrawnPictures, prompts: Sequence[str], scorer: Scorer, batch_size: int, progress: Progress
) -> Tensor:
    """(N,) float64: the score of every drawn picture with its prompt."""
    scores = [
        # resized bicubically by Pillow to whole values, as CLIP's own preprocessing does
        scorer(drawn.pixels(numbers, scorer.side), [prompts[i] for i in numbers])
        for numbers in drawn.batches(batch_size, progress, scorer.name)
    ]
    return torch.cat(scores)
