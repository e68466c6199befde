"""ImageReward (Xu et al., 2023): how much people would like an image for a prompt, by BLIP and a trained MLP.

The image goes through a ViT-L/16, the prompt through a BERT whose layers attend to the image, and the last state of
the first token through five linear layers. BLIP's parts are those of transformers; what differs is how the published
file, `ImageReward.pt` of THUDM/ImageReward, names them: `name_in_file`. The names are read off the code that wrote and
loads that file (github.com/THUDM/ImageReward, github.com/salesforce/BLIP).

Shapes: B batch, S tokens of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hart.checkpoint.storage import load_state, read_pickle
from hart.errors import HartError

REWARD_MEAN, REWARD_DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the network's raw numbers, published with it: scores are these in deviations from their mean."""
ADDRESS = "https://huggingface.co/THUDM/ImageReward/resolve/main/ImageReward.pt"
MOST_TOKENS = 35
"""Of a prompt, both ends included; the rest is cut off."""
HEAD_WIDTHS = (1024, 128, 64, 16, 1)
DROPOUTS = (0.2, 0.2, 0.1)
"""After the first layers. They do nothing here, but count in the names of the others."""

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
"""Part of a name here -> the same in the file. What is not listed has one name."""
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""BLIP's projections for comparing images with texts, and a counter that BERT once stored: the file has them."""


@dataclass(frozen=True)
class RewardSizes:
    """Of both towers; the published file's by default. image_size, patch: pixels. Inner layers are four times as
    wide."""

    image_size: int = 224
    patch: int = 16
    vision_width: int = 1024
    vision_depth: int = 24
    text_width: int = 768
    text_depth: int = 12
    vocabulary: int = 30524
    positions: int = 512
    head_width: int = 64


PUBLISHED = RewardSizes()


class RewardHead(nn.Module):
    """Five linear layers without a nonlinearity, as published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, outputs in enumerate(HEAD_WIDTHS):
            layers.append(nn.Linear(width, outputs))
            layers += [nn.Dropout(share) for share in DROPOUTS[number : number + 1]]
            width = outputs
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, text_width) -> (B,)."""
        return self.layers(x).squeeze(1)


class RewardNetwork(nn.Module):
    """With random weights; `load_image_reward` reads the published ones."""

    def __init__(self, sizes: RewardSizes = PUBLISHED) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=sizes.vision_width,
                intermediate_size=4 * sizes.vision_width,
                num_hidden_layers=sizes.vision_depth,
                num_attention_heads=sizes.vision_width // sizes.head_width,
                image_size=sizes.image_size,
                patch_size=sizes.patch,
                layer_norm_eps=1e-6,  # BLIP's own; transformers' default is another
            )
        )
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=sizes.vocabulary,
                hidden_size=sizes.text_width,
                encoder_hidden_size=sizes.vision_width,
                intermediate_size=4 * sizes.text_width,
                num_hidden_layers=sizes.text_depth,
                num_attention_heads=sizes.text_width // sizes.head_width,
                max_position_embeddings=sizes.positions,
                is_decoder=True,  # only then its layers attend to the image
            ),
            add_pooling_layer=False,
        )
        self.mlp = RewardHead(sizes.text_width)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Raw rewards (B,) of normalised images (B, 3, H, W), tokens (B, S) and their mask (B, S), 0 or 1."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False)
        return self.mlp(read.last_hidden_state[:, 0])


def name_in_file(name: str) -> str:
    """How the published file calls a parameter of `RewardNetwork`."""
    for ours, theirs in NAMES:
        name = name.replace(ours, theirs)
    return name


def load_image_reward(file: Path, sizes: RewardSizes = PUBLISHED) -> RewardNetwork:
    """The network with the weights of `ImageReward.pt`. Raises `HartError`, for any unknown name too."""
    if not file.is_file():
        raise HartError(f"{file}: no such file: fetch it from {ADDRESS}")
    tensors = {name: value for name, value in read_pickle(file).items() if not name.startswith(UNUSED)}
    network = RewardNetwork(sizes)
    ours = {name_in_file(name): name for name in network.state_dict()}
    load_state(network, {ours.get(name, name): value for name, value in tensors.items()}, file, name_in_file)
    return network
