"""A tiny ImageReward with random weights, by the names of the published file."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from hart.networks import image_reward
from judge_models import PIECES

PUBLISHED = SimpleNamespace(
    image_size=224, patch=16, vision_width=1024, vision_depth=24, text_width=768, text_depth=12, vocabulary=30524,
    positions=512, head_width=64,
)  # fmt: skip
SIZES = SimpleNamespace(
    image_size=16, patch=8, vision_width=12, vision_depth=2, text_width=8, text_depth=2, vocabulary=len(PIECES),
    positions=40, head_width=4,
)  # fmt: skip


def use(sizes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks have these sizes: the published file has 447 million weights."""

    def tower(width: int, depth: int) -> dict[str, int]:
        heads = width // sizes.head_width
        inner = {"intermediate_size": 4 * width, "num_hidden_layers": depth, "num_attention_heads": heads}
        return {"hidden_size": width, **inner}

    vision, text = tower(sizes.vision_width, sizes.vision_depth), tower(sizes.text_width, sizes.text_depth)
    vision |= {"image_size": sizes.image_size, "patch_size": sizes.patch}
    text |= {"vocab_size": sizes.vocabulary, "max_position_embeddings": sizes.positions}
    monkeypatch.setattr(image_reward, "VISION", vision)
    monkeypatch.setattr(image_reward, "TEXT", text)


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def published_layout(sizes: SimpleNamespace) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the file, by ImageReward.py, blip_pretrain.py, vit.py and med.py of the two repositories."""
    eye, text, patches = sizes.vision_width, sizes.text_width, (sizes.image_size // sizes.patch) ** 2
    vision, bert = "blip.visual_encoder", "blip.text_encoder"
    layout: dict[str, tuple[int, ...]] = {
        f"{vision}.cls_token": (1, 1, eye),
        f"{vision}.pos_embed": (1, patches + 1, eye),
        f"{vision}.patch_embed.proj.weight": (eye, 3, sizes.patch, sizes.patch),
        f"{vision}.patch_embed.proj.bias": (eye,),
        **norm(f"{vision}.norm", eye),
        f"{bert}.embeddings.position_ids": (1, sizes.positions),
        f"{bert}.embeddings.word_embeddings.weight": (sizes.vocabulary, text),
        f"{bert}.embeddings.position_embeddings.weight": (sizes.positions, text),
        **norm(f"{bert}.embeddings.LayerNorm", text),
        **linear("blip.vision_proj", eye, 256),
        **linear("blip.text_proj", text, 256),
    }
    for number in range(sizes.vision_depth):
        block = f"{vision}.blocks.{number}"
        layout |= norm(f"{block}.norm1", eye) | norm(f"{block}.norm2", eye)
        layout |= linear(f"{block}.attn.qkv", eye, 3 * eye) | linear(f"{block}.attn.proj", eye, eye)
        layout |= linear(f"{block}.mlp.fc1", eye, 4 * eye) | linear(f"{block}.mlp.fc2", 4 * eye, eye)
    for number in range(sizes.text_depth):
        layer = f"{bert}.encoder.layer.{number}"
        for attention, source in (("attention", text), ("crossattention", eye)):
            layout |= linear(f"{layer}.{attention}.self.query", text, text)
            layout |= linear(f"{layer}.{attention}.self.key", source, text)
            layout |= linear(f"{layer}.{attention}.self.value", source, text)
            layout |= linear(f"{layer}.{attention}.output.dense", text, text)
            layout |= norm(f"{layer}.{attention}.output.LayerNorm", text)
        layout |= linear(f"{layer}.intermediate.dense", text, 4 * text)
        layout |= linear(f"{layer}.output.dense", 4 * text, text) | norm(f"{layer}.output.LayerNorm", text)
    for number, inputs, outputs in ((0, text, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)):
        layout |= linear(f"mlp.layers.{number}", inputs, outputs)
    return layout


def random_state(sizes: SimpleNamespace) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published_layout(sizes).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("position_ids"):
            state[name] = torch.arange(shape[1]).view(shape)
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight")):
            state[name] = 1 + 0.1 * noise
        else:
            state[name] = noise / math.sqrt(shape[-1])
    return state
