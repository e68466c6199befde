"""How well an image fits its prompt, or how much people would like it: one number per image, from given weights.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hart.networks.image_reward import MOST_TOKENS, RewardNetwork, load_image_reward
from hart.networks.pretrained import CLIP, Frozen, load_frozen, load_text_tokenizer, normalised, short_name

CLIP_SCORE = "CLIP score"


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

    def __init__(self, file: Path, tokenizer: str, device: torch.device, network: RewardNetwork | None = None) -> None:
        """file: `ImageReward.pt`. tokenizer: folder or hub id of BERT's text tokenizer. network: one of other sizes,
        for the file's weights. Raises `HartError`."""
        name = "ImageReward"
        super().__init__(load_image_reward(file, network), name, device, load_text_tokenizer(tokenizer, name))
        self.image_size = int(self.network.vision.config.image_size)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        ).to(self.device)
        seen = normalised(pixels.to(self.device).float() / 255, CLIP)
        return self.network(seen, tokens["input_ids"], tokens["attention_mask"])
