"""A tiny random CLIP with a tiny tokenizer, as transformers stores them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

IMAGE_SIZE, POSITIONS = 28, 77


def save_tiny_clip(folder: Path) -> Path:
    """Images of `IMAGE_SIZE` px, texts of at most `POSITIONS` tokens: one a byte, and one at each end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(pieces), "max_position_embeddings": POSITIONS},
        vision_config={**sizes, "image_size": IMAGE_SIZE, "patch_size": 14},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    for parameter in model.parameters():
        # the initial weights are so small that all texts look alike
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    model.save_pretrained(folder)
    return folder
