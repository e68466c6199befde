"""Decoding in strips gives the decoder's own image, however the strips are cut, in less memory."""

from __future__ import annotations

import pytest
import torch

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
