"""A tiny random Qwen2 model with a tiny tokenizer, as transformers stores them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

WIDTH = 32


def save_tokenizer(folder: Path, side: str, pad_token: str | None = "<pad>") -> None:
    """A byte-level tokenizer without merges: one token a byte."""
    alphabet = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    Qwen2Tokenizer(
        tokenizer_object=tokenizer, pad_token=pad_token, eos_token=None, unk_token=None, padding_side=side
    ).save_pretrained(folder)


def save_language_model(folder: Path, side: str = "right") -> None:
    """Two layers of width `WIDTH`; `side` is where prompts are padded."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, side)
