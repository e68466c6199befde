"""A frozen Qwen2 language model as text encoder, as the released weights expect it (paper, section 4.1).

The features are the hidden states of the last layer after its final norm. With `config.instruction` a fixed
instruction precedes the prompt's tokens; its own states are cut off afterwards.

Shapes: B prompts, S text tokens, E hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hart.config import TextEncoderConfig
from hart.errors import HartError
from hart.networks.pretrained import NO_CODE, from_transformers, load_frozen, load_text_tokenizer
from hart.text_encoder.base import Reading, listed
from hart.types import TextContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def enhancement_instruction() -> str:
    """Return the instruction that asks for an enhanced prompt, exactly as in the training of the released weights."""
    return files("hart.text_encoder").joinpath("instruction.txt").read_text(encoding="utf-8")


class Qwen2TextEncoder:
    """Hidden states of a Qwen2 model. Prompts are padded, on the tokenizer's own side, or truncated to `config.tokens`.

    Prompt and instruction are tokenised separately: a prompt has the same tokens with and without instruction, and
    padding on the left is between the two.
    """

    def __init__(self, config: TextEncoderConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise `HartError` if the tokenizer has no padding token."""
        if tokenizer.pad_token_id is None:
            raise HartError(f"{config.source}: its tokenizer has no padding token; set pad_token in its configuration")
        self.config = config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._prefix: list[int] = tokenizer(enhancement_instruction())["input_ids"] if config.instruction else []

    @classmethod
    def load(
        cls, config: TextEncoderConfig, source: str | Path, dtype: torch.dtype = torch.float32, instead: str = ""
    ) -> Qwen2TextEncoder:
        """Load from `source`, a hub id or a folder, in `dtype`. instead: see `from_transformers`. Raises `HartError` if
        it cannot be loaded."""
        from transformers import AutoConfig, Qwen2Model

        def require_qwen2(place: str) -> None:
            # a configuration of another model may lack the sizes: a random model of 7B would be made first
            kind = AutoConfig.from_pretrained(place, **NO_CODE).model_type
            if kind != "qwen2":
                raise HartError(f"it is a {kind!r} model")

        source, role = str(source), "text encoder"
        from_transformers(require_qwen2, "a Qwen2 model", source, role, instead)
        model = load_frozen(Qwen2Model, source, role, dtype, instead)
        return cls(config, model, load_text_tokenizer(source, role, instead))

    @property
    def width(self) -> int:
        """Return E, the hidden width of the language model."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextContext:
        """Return features of B prompts; see `TextEncoder.encode`."""
        tokens = self.tokenizer(
            listed(prompts), padding="max_length", truncation=True, max_length=self.config.tokens, return_tensors="pt"
        ).to(self.model.device)
        mask = tokens["attention_mask"].bool()
        prefix = torch.tensor(self._prefix, dtype=torch.long, device=mask.device).expand(len(mask), -1)
        states = self.model(
            input_ids=torch.cat([prefix, tokens["input_ids"]], dim=1),
            attention_mask=torch.cat([torch.ones_like(prefix), mask.long()], dim=1),
            use_cache=False,
        ).last_hidden_state
        return TextContext(states[:, prefix.shape[1] :], mask)

    def reading(self, prompts: Sequence[str]) -> list[Reading]:
        """See `TextEncoder.reading`. A byte-level language model knows all words."""
        at_end = self.tokenizer.truncation_side == "right"
        readings = []
        for ids in self.tokenizer(listed(prompts), verbose=False)["input_ids"] if prompts else []:
            outside = ids[self.config.tokens :] if at_end else ids[: -self.config.tokens]
            readings.append(Reading(str(self.tokenizer.decode(outside, skip_special_tokens=True)).strip()))
        return readings

    def to(self, device: torch.device, dtype: torch.dtype) -> Qwen2TextEncoder:
        """Move the language model in place; see `TextEncoder.to`."""
        self.model.to(device=device, dtype=dtype)
        return self
