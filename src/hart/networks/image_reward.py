"""ImageReward (Xu et al., 2023): how much people would like an image for a prompt, by BLIP and a trained MLP.

The image goes through a ViT-L/16, the prompt through a BERT whose layers attend to the image, and the last state of
the first token through five linear layers. BLIP's parts come from transformers; the published file, `ImageReward.pt` of
THUDM/ImageReward, names them differently: see `name_in_file`. The names follow the code that wrote and loads that file
(github.com/THUDM/ImageReward, github.com/salesforce/BLIP).

Shapes: B batch, S tokens of a prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hart.checkpoint.storage import load_state, read_pickle
from hart.errors import HartError

REWARD_MEAN, REWARD_DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Mean and deviation of the network's raw outputs, published with it; scores are normalised by them."""
ADDRESS = "https://huggingface.co/THUDM/ImageReward/resolve/main/ImageReward.pt"
MOST_TOKENS = 35
"""Longest prompt in tokens, both ends included; the rest is cut off."""

NAMES = (
    ("vision.embeddings.class_embedding", "blip.visual_encoder.cls_token"),
    ("vision.embeddings.position_embedding", "blip.visual_encoder.pos_embed"),
    ("vision.embeddings.patch_embedding.", "blip.visual_encoder.patch_embed.proj."),
    ("vision.encoder.layers.", "blip.visual_encoder.blocks."),
    ("vision.post_layernorm.", "blip.visual_encoder.norm."),
    (".self_attn.qkv.", ".attn.qkv."),
    (".self_attn.projection.", ".attn.proj."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    ("text.", "blip.text_encoder."),
)
"""Maps part of a name here to its counterpart in the file. Names that are not listed are the same."""
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""Unused entries in the file: BLIP's projections to compare images with texts, and a counter that BERT once stored."""


VISION: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 30524, "max_position_embeddings": 512,
}  # fmt: skip
"""The published sizes, for BLIP's configurations in transformers."""


class RewardNetwork(nn.Module):
    """ImageReward with random weights; see `load_image_reward`."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        # BLIP's own epsilon; transformers' default differs
        self.vision = BlipVisionModel(BlipVisionConfig(**VISION, layer_norm_eps=1e-6))
        # its layers attend to the image only as a decoder
        config = BlipTextConfig(**TEXT, encoder_hidden_size=VISION["hidden_size"], is_decoder=True)
        self.text = BlipTextModel(config, add_pooling_layer=False)
        # without nonlinearities, as published; the dropout layers do nothing but count in the names
        layers = nn.Sequential(
            nn.Linear(TEXT["hidden_size"], 1024), nn.Dropout(), nn.Linear(1024, 128), nn.Dropout(),
            nn.Linear(128, 64), nn.Dropout(), nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip
        self.mlp = nn.ModuleDict({"layers": layers})
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return rewards (B,), float64 on the CPU, for normalised images (B, 3, H, W), tokens (B, S) and 0/1 mask."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False)
        rewards = self.mlp["layers"](read.last_hidden_state[:, 0]).squeeze(1)
        return (rewards.cpu().double() - REWARD_MEAN) / REWARD_DEVIATION


def name_in_file(name: str) -> str:
    """Return the published file's name of a parameter of `RewardNetwork`."""
    for ours, theirs in NAMES:
        name = name.replace(ours, theirs)
    return name


def load_image_reward(file: Path) -> RewardNetwork:
    """Load the network with the weights of `ImageReward.pt`. Raises `HartError`, also for any unknown name."""
    if not file.is_file():
        raise HartError(f"{file}: no such file: fetch it from {ADDRESS}")
    tensors = {name: value for name, value in read_pickle(file).items() if not name.startswith(UNUSED)}
    network = RewardNetwork()
    ours = {name_in_file(name): name for name in network.state_dict()}
    load_state(network, {ours.get(name, name): value for name, value in tensors.items()}, file, name_in_file)
    return network
