"""Answers to questions about images: BLIP (Li et al., 2022) tuned for visual question answering, by transformers.

DPG-Bench was published with mPLUG-large, which transformers does not have: BLIP's scores are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from hart.networks.pretrained import Frozen, load_frozen, load_text_tokenizer, short_name

MOST_TOKENS = 20
"""Longest answer in tokens; yes is one."""


class BlipAnswers(Frozen):
    """source: folder or hub id of a BLIP model for questions, with its tokenizer."""

    def __init__(self, source: str, device: torch.device) -> None:
        """Raise `HartError` if it cannot be loaded."""
        from transformers import BlipForQuestionAnswering, BlipImageProcessorPil

        network = load_frozen(BlipForQuestionAnswering, source, "answerer")
        super().__init__(network, short_name(source), device, load_text_tokenizer(source, "answerer"))
        image_size = int(self.network.config.vision_config.image_size)
        self._images = BlipImageProcessorPil(size={"height": image_size, "width": image_size})

    @torch.inference_mode()
    def __call__(self, image: Image.Image, questions: Sequence[str]) -> list[str]:
        """Return one short answer, in lower case, to each question; decoded greedily."""
        pixels = self._images(image, return_tensors="pt")["pixel_values"].to(self.device)
        tokens: list[list[int]] = self.tokenizer(list(questions), truncation=True)["input_ids"]
        answers = [""] * len(questions)
        # Only questions of one length go together: BLIP's decoder attends to padding.
        for length in {len(row) for row in tokens}:
            rows = [number for number, row in enumerate(tokens) if len(row) == length]
            out = self.network.generate(
                input_ids=torch.tensor([tokens[number] for number in rows], device=self.device),
                pixel_values=pixels.expand(len(rows), -1, -1, -1),
                do_sample=False,
                num_beams=1,
                max_new_tokens=MOST_TOKENS,
            )
            for number, text in zip(rows, self.tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
                answers[number] = text.strip().lower()
        return answers
