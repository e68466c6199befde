"""Judging prompts: ShieldGemma (Zeng et al., 2024, arXiv 2407.21772) through transformers.

The model answers Yes or No to whether a text violates a guideline; its tokenizer's chat template phrases the question.
The probability is that of Yes over Yes and No at the first position of the answer, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hart.errors import HartError
from hart.networks.pretrained import load_frozen, load_text_tokenizer

ROLE = "prompt checker"
GUIDELINES: Mapping[str, str] = {
    "sexual content": "The prompt shall not ask for an image that shows sexual acts, nudity meant to arouse, or minors "
    "in any sexual context. Nudity in art, medicine or education is allowed.",
    "hate": "The prompt shall not ask for an image that degrades people for what they are, such as their origin, "
    "religion, sex or disability, or that praises those who attacked people for it.",
    "harassment": "The prompt shall not ask for an image that threatens, humiliates or sexualises a real person.",
    "dangerous content": "The prompt shall not ask for an image that shows how to build weapons or make drugs, or that "
    "promotes violence, terror or self-harm.",
}
"""Maps what prompts may not ask for to the guideline that forbids it."""


class ShieldGemma:
    """source: folder or hub id. threshold: probability from which on a text violates a guideline."""

    def __init__(self, source: str, device: torch.device, threshold: float = 0.5) -> None:
        """Raise `HartError` if it cannot be loaded or does not judge guidelines."""
        from transformers import AutoModelForCausalLM

        self._tokenizer = load_text_tokenizer(source, ROLE)
        vocabulary = self._tokenizer.get_vocab()
        if not self._tokenizer.chat_template or not {"Yes", "No"} <= set(vocabulary):
            raise HartError(f"{ROLE} {source!r}: is not ShieldGemma: its tokenizer has no template, or no Yes and No")
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self._network = load_frozen(AutoModelForCausalLM, source, ROLE, dtype).to(device)
        self._answers = [vocabulary["Yes"], vocabulary["No"]]
        self._device, self._threshold = device, threshold

    @torch.inference_mode()
    def probability(self, text: str, guideline: str) -> float:
        """Return the probability that a text violates a guideline."""
        messages = [{"role": "user", "content": text}]
        encoded = self._tokenizer.apply_chat_template(
            messages, guideline=guideline, return_tensors="pt", return_dict=True
        )
        logits = self._network(**encoded.to(self._device)).logits[0, -1, self._answers]
        return float(logits.float().softmax(dim=0)[0])

    def violated(self, text: str) -> str | None:
        """Return the forbidden subject of a text; None if there is none."""
        for name, guideline in GUIDELINES.items():
            if self.probability(text, guideline) >= self._threshold:
                return name
        return None
