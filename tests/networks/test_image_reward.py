"""ImageReward: numbers of BLIP and its head written out from the published file's own names, and the file's layout."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hart.checkpoint.folders import CheckpointError
from hart.errors import HartError
from hart.evaluation.judges.scores import ImageReward
from hart.networks.image_reward import RewardNetwork, name_in_file
from judge_models import save_text_tokenizer
from reward_models import PUBLISHED, SIZES, published_layout, random_state, use

CPU = torch.device("cpu")
PROMPTS = ["a cat", "two dogs and a very large house", "green"]


def written_out(state: dict[str, Tensor], pixels: Tensor, tokens: list[int]) -> float:
    """The score of one normalised image (3, side, side) and one prompt without padding."""

    def apply(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = []
        for start in range(0, query.shape[1], SIZES.head_width):
            q, k, v = (part[:, start : start + SIZES.head_width] for part in (query, key, value))
            heads.append((q @ k.T / math.sqrt(SIZES.head_width)).softmax(dim=1) @ v)
        return torch.cat(heads, dim=1)

    vision, bert = "blip.visual_encoder", "blip.text_encoder"
    patches = F.conv2d(
        pixels[None], state[f"{vision}.patch_embed.proj.weight"], state[f"{vision}.patch_embed.proj.bias"], SIZES.patch
    )
    x = torch.cat([state[f"{vision}.cls_token"][0], patches[0].flatten(1).T]) + state[f"{vision}.pos_embed"][0]
    for number in range(SIZES.vision_depth):
        block = f"{vision}.blocks.{number}"
        query, key, value = apply(f"{block}.attn.qkv", normed(f"{block}.norm1", x, 1e-6)).chunk(3, dim=1)
        x = x + apply(f"{block}.attn.proj", attended(query, key, value))
        x = x + apply(f"{block}.mlp.fc2", F.gelu(apply(f"{block}.mlp.fc1", normed(f"{block}.norm2", x, 1e-6))))
    seen = normed(f"{vision}.norm", x, 1e-6)

    x = state[f"{bert}.embeddings.word_embeddings.weight"][tokens]
    x = x + state[f"{bert}.embeddings.position_embeddings.weight"][: len(tokens)]
    x = normed(f"{bert}.embeddings.LayerNorm", x, 1e-12)
    for number in range(SIZES.text_depth):
        layer = f"{bert}.encoder.layer.{number}"
        for kind in ("attention", "crossattention"):
            source = x if kind == "attention" else seen
            parts = [apply(f"{layer}.{kind}.self.query", x)]
            parts += [apply(f"{layer}.{kind}.self.{part}", source) for part in ("key", "value")]
            x = normed(
                f"{layer}.{kind}.output.LayerNorm", apply(f"{layer}.{kind}.output.dense", attended(*parts)) + x, 1e-12
            )
        inner = F.gelu(apply(f"{layer}.intermediate.dense", x))
        x = normed(f"{layer}.output.LayerNorm", apply(f"{layer}.output.dense", inner) + x, 1e-12)
    reward = x[0]
    for number in (0, 2, 4, 6, 7):
        reward = apply(f"mlp.layers.{number}", reward)
    return (float(reward) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("words")
    save_text_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "ImageReward.pt"
    torch.save(random_state(SIZES), path)
    return path


def test_scores_are_those_of_the_published_network(file: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(SIZES, monkeypatch)
    scorer = ImageReward(file, tokenizer, CPU)
    assert (scorer.name, scorer.image_size) == ("ImageReward", 16)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (len(PROMPTS), 3, 16, 16), generator=generator, dtype=torch.uint8)
    long = "x" * 60
    scores = scorer(pixels, [*PROMPTS[:2], long])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    tokenizer, state = AutoTokenizer.from_pretrained(tokenizer), random_state(SIZES)
    for score, image, prompt in zip(scores.tolist(), pixels, [*PROMPTS[:2], long], strict=True):
        tokens = tokenizer(prompt, truncation=True, max_length=35)["input_ids"]
        assert len(tokens) <= 35
        assert score == pytest.approx(written_out(state, (image / 255 - mean) / std, tokens), abs=1e-4)
    assert scores.dtype == torch.float64 and len({round(score, 3) for score in scores.tolist()}) == 3


def test_layout_is_that_of_the_published_file() -> None:
    with torch.device("meta"):
        published_network = RewardNetwork()
    ours = {name_in_file(name): tuple(value.shape) for name, value in published_network.state_dict().items()}
    published = published_layout(PUBLISHED)
    unused = {name for name in published if "_proj." in name or name.endswith("position_ids")}
    assert ours == {name: shape for name, shape in published.items() if name not in unused}
    assert ours["blip.visual_encoder.pos_embed"] == (1, 197, 1024)
    assert ours["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"] == (768, 1024)


def test_another_file_names_what_does_not_fit(
    file: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(SIZES, monkeypatch)
    state = random_state(SIZES)
    del state["blip.visual_encoder.blocks.1.attn.proj.bias"]
    state["module.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(
        CheckpointError, match=r"missing blip\.visual_encoder\.blocks\.1\.attn\.proj\.bias; unexpected module"
    ):
        ImageReward(tmp_path / "cut.pt", tokenizer, CPU)
    with pytest.raises(HartError, match=r"absent\.pt: no such file: fetch it from https://huggingface\.co/THUDM"):
        ImageReward(tmp_path / "absent.pt", tokenizer, CPU)
    with pytest.raises(HartError, match=r"ImageReward '.*absent': there is no such folder"):
        ImageReward(file, str(tmp_path / "absent"), CPU)
