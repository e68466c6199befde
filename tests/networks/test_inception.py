"""Inception-v3 of the FID: layout and numbers of the published weight file's network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hart.checkpoint.folders import CheckpointError
from hart.errors import HartError
from hart.networks.inception import IMAGE_SIZE, FidInception, resize_like_clean_fid, resize_like_tensorflow


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Weights from a formula, so that the numbers below do not depend on a random generator."""
    for number, (name, value) in enumerate(sorted(module.state_dict().items())):
        if not value.is_floating_point():
            continue
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 12.9898 + number)
        if name.endswith(("running_var", "bn.weight")):
            wave = 1 + 0.3 * wave
        elif value.dim() > 1:
            wave = wave * math.sqrt(3 / value[0].numel())
        else:
            wave = 0.1 * wave
        value.copy_(wave.view_as(value))


@pytest.fixture(scope="module")
def network() -> FidInception:
    module = FidInception()
    fill(module)
    return module


def images() -> Tensor:
    """Two waves of colour, 75 x 60 pixels, one the negative of the other."""
    y, x = torch.meshgrid(torch.arange(75.0), torch.arange(60.0), indexing="ij")
    waves = [(128 + 100 * torch.sin(x * a + y * b)).round() for a, b in ((0.1, 0.2), (0.3, 0.05), (0.02, 0.4))]
    image = torch.stack(waves).unsqueeze(0)
    return torch.cat([image, 255 - image])


def test_layout_is_that_of_the_fid_weights(network: FidInception) -> None:
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_850_960
    assert len([name for name in shapes if name.endswith("conv.weight")]) == 94
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6c.branch7x7dbl_5.conv.weight": (192, 160, 1, 7),
        "Mixed_7a.branch7x7x3_4.bn.bias": (192,),
        "Mixed_7b.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }.items():
        assert shapes[name] == shape


def test_numbers_are_those_of_torch_fidelity(network: FidInception) -> None:
    """Expected values: torch-fidelity 0.4.0 with the same weights and images."""
    out = network(resize_like_tensorflow(images(), IMAGE_SIZE))
    expected = torch.tensor([1.7302229, 1.9378248, 2.1246243, 2.2086971, 2.1466091])
    torch.testing.assert_close(out.pooled[0, :5], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.pooled[1, 1000:1003], torch.tensor([0.0, 0.0279937, 0.0396215]), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.logits[0, :3], torch.tensor([-1.8947288, -2.0008984, -2.0855246]), rtol=1e-4, atol=0)
    assert float(out.pooled.sum()) == pytest.approx(908.29016, rel=1e-4)
    assert out.spatial.shape == (2, 2023)
    assert float(out.spatial.sum()) == pytest.approx(2461.35498, rel=1e-4)


def test_spatial_features_are_in_the_order_of_adms_statistics(network: FidInception) -> None:
    """TensorFlow's maps are (B, H, W, C), and ADM's evaluator flattens the first 7 channels of them."""
    seen: list[Tensor] = []
    hook = network.Mixed_6d.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    out = network(resize_like_tensorflow(images(), IMAGE_SIZE))
    hook.remove()
    (block,) = seen
    as_published = np.transpose(block.numpy(), (0, 2, 3, 1))[..., :7].reshape(2, -1)
    assert np.array_equal(out.spatial.numpy(), as_published)


def test_loads_the_published_file_with_and_without_counters(network: FidInception, tmp_path: Path) -> None:
    state = network.state_dict()
    torch.save(state, tmp_path / "weights.pth")
    bare = {name: value.contiguous() for name, value in state.items() if "num_batches" not in name}
    save_file(bare, tmp_path / "weights.safetensors")
    for file in ("weights.pth", "weights.safetensors"):
        loaded = FidInception.from_file(tmp_path / file)
        assert torch.equal(loaded.Mixed_7c.branch_pool.conv.weight, network.Mixed_7c.branch_pool.conv.weight)
        assert not loaded.training
    torch.save({name: value for name, value in bare.items() if name != "fc.bias"}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"cut\.pth.*missing fc\.bias"):
        FidInception.from_file(tmp_path / "cut.pth")
    with pytest.raises(HartError, match="no such file"):
        FidInception.from_file(tmp_path / "absent.pth")


def test_resizes_as_tensorflow_did() -> None:
    row = torch.tensor([0.0, 10.0, 20.0]).view(1, 1, 1, 3).expand(1, 1, 3, 3)
    # pixel i is read at i * 3 / 6, without the half pixel that later versions add; the edge is repeated
    assert resize_like_tensorflow(row, 6)[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 20]
    assert resize_like_tensorflow(row, 3).equal(row)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resampling(old: int, new: int) -> np.ndarray:
    """(new, old): weights of the cubic filter, widened by the factor of shrinking, normalised at the border."""
    centres = (np.arange(new) + 0.5) * old / new
    weights = cubic((np.arange(old) + 0.5 - centres[:, None]) / max(old / new, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(40, 33), (410, 350), (299, 299)])
def test_resizes_as_clean_fid(shape: tuple[int, int]) -> None:
    """Against the filter written out in float64; by hand, equal to clean-fid 0.1.35's own function."""
    pixels = torch.randint(256, (2, 3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    down, across = (resampling(old, 60) for old in shape)
    expected = np.clip(down @ pixels.double().numpy() @ across.T, 0, 255)
    resized = resize_like_clean_fid(pixels, 60)
    assert resized.dtype == torch.float32 and (resized != resized.round()).any()
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-3)
    assert resize_like_clean_fid(pixels, 299).shape == (2, 3, 299, 299)
