"""Decoding in strips gives the decoder's own image, however the strips are cut, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from hart.config import TokenizerConfig
from hart.tokenizer.autoencoder import Decoder
from hart.tokenizer.tiling import decode_in_strips
from helpers import random_tensor

SIZES = TokenizerConfig((1, 2, 3), base_channels=32, channel_multipliers=(1, 2, 2), residual_blocks=1)


@pytest.mark.parametrize(("patch_size", "padding"), [(1, "zeros"), (2, "zeros"), (1, "replicate")])
@pytest.mark.parametrize(("shape", "pixels"), [((3, 3), 1), ((5, 2), 7), ((5, 2), 40), ((3, 3), 2**16)])
@torch.no_grad()
def test_strips_make_the_same_image(shape: tuple[int, int], pixels: int, patch_size: int, padding: str) -> None:
    torch.manual_seed(0)
    config = SIZES.replace(patch_size=patch_size, output_padding=padding)
    decoder = Decoder(config).to(memory_format=torch.channels_last).double()  # type: ignore[call-overload]
    latent = random_tensor(2, SIZES.latent_channels, *shape).double()
    expected = decoder(latent.clone())
    torch.testing.assert_close(decode_in_strips(decoder, latent, pixels), expected, rtol=1e-4, atol=1e-5)
    single = decoder.float()
    found = decode_in_strips(single, latent.float(), pixels)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


class ConvolvedRows(TorchFunctionMode):
    """The most rows that a convolution saw, by the width of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and args[1].shape[-1] == 3:
            height, width = args[0].shape[2:]
            self.most[width] = max(self.most.get(width, 0), height)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_no_convolution_above_the_lowest_resolution_sees_more_than_a_strip() -> None:
    with ConvolvedRows() as seen:
        decode_in_strips(Decoder(SIZES), random_tensor(1, SIZES.latent_channels, 6, 6), pixels=4 * 24)
    # beside 8 and 4 rows of the larger maps, one above and below: of the neighbours, or of zeros
    assert seen.most == {6: 8, 12: 10, 24: 6}
