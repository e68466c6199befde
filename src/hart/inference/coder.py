"""A tokenizer that images are encoded and decoded with, on its own or in a pipeline.

Shapes: B batch, H W image, D latent channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hart.data.transforms import pil_to_pixels, pixels_to_pil, to_signed, unit_to_pil, unit_to_pixels
from hart.devices import convolution_layout, dtype_name
from hart.errors import HartError
from hart.generation.arguments import OutputType
from hart.generation.outputs import Reconstruction, psnr
from hart.grids import Grid
from hart.inference.speed import Speed
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer


@dataclass(frozen=True)
class Coder:
    """A tokenizer on a device, from images and back. dtype: of the model around it; see `prepared_tokenizer`."""

    tokenizer: HybridTokenizer
    device: torch.device
    dtype: torch.dtype

    def encode(self, pixels: Tensor, grid: Grid | None = None) -> Tensor:
        """The continuous latent (D, h, w) float32 on the device of an image (3, H, W) uint8, made small to a grid."""
        image = to_signed(pixels).unsqueeze(0).to(self.device)
        return (self.tokenizer.encode(image) if grid is None else self.tokenizer.encode_small(image, grid))[0]

    def images(self, latents: Tensor, output_type: OutputType = "pil") -> Any:
        """Latents (B, D, h, w), decoded one by one, as images of the given type.

        Tensors are ordinary ones, that may be changed, also in inference mode.
        """
        if output_type == "latent":
            self._require_finite(latents.isfinite().all())
            with torch.inference_mode(False):
                return latents.clone()
        if output_type == "pil":
            # whole bytes leave the device, after all else
            decoded = [self._decoded(latent) for latent in latents]
            finite = torch.stack([image.isfinite().all() for image in decoded]).all()
            pixels = torch.stack([unit_to_pixels(image) for image in decoded]).cpu()
            self._require_finite(finite)
            return [pixels_to_pil(image) for image in pixels]
        decoded = [self._finite(self._decoded(latent)) for latent in latents]
        with torch.inference_mode(False):
            stacked = torch.stack(decoded)
        return stacked if output_type == "pt" else stacked.permute(0, 2, 3, 1).numpy()

    def _decoded(self, latent: Tensor) -> Tensor:
        """One latent (D, h, w) to an image (3, H, W) in [0, 1], float32 on the device."""
        return _unit(self.tokenizer.decode(latent.unsqueeze(0).to(self.device)))

    @torch.inference_mode()
    def reconstruct(self, image: Image.Image) -> Reconstruction:
        """Encode and decode an image, cropped to a square and resized first."""
        pixels = pil_to_pixels(image, self.tokenizer.config.image_size)
        original, given = pixels.float() / 255, to_signed(pixels).unsqueeze(0).to(self.device)
        discrete, hybrid = (self._finite(_unit(found)) for found in self.tokenizer.reconstruct(given))
        return Reconstruction(
            original=unit_to_pil(original),
            discrete=unit_to_pil(discrete),
            hybrid=unit_to_pil(hybrid),
            discrete_psnr=float(psnr(discrete, original)),
            hybrid_psnr=float(psnr(hybrid, original)),
        )

    def _finite(self, image: Tensor) -> Tensor:
        """The image on the CPU, if it is finite."""
        self._require_finite(image.isfinite().all())
        return image.cpu()

    def _require_finite(self, finite: Tensor) -> None:
        """The one look, at the end, for numbers that left their range anywhere on the way; the meta device has none."""
        if not finite.is_meta and not bool(finite):
            narrow = self.dtype == torch.float16
            raise HartError(
                f"the image is not finite in {dtype_name(self.dtype)}: "
                + ("use float32 or bfloat16" if narrow else "weights, an adapter or latents hold numbers far too large")
            )


def _unit(images: Tensor) -> Tensor:
    """The image (3, H, W) in [0, 1], float32, of one decoded by itself, (1, 3, H, W) in [-1, 1]."""
    return (images[0].float() + 1) / 2


def of_type(images: Sequence[Image.Image], output_type: OutputType) -> Any:
    """Finished RGB images of one size as a list of them, an array or a tensor."""
    if output_type == "pil":
        return images
    array = np.stack([np.asarray(image) for image in images]).astype(np.float32) / 255
    with torch.inference_mode(False):
        return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2)


def prepared_tokenizer(
    tokenizer: HybridTokenizer, device: torch.device, dtype: torch.dtype, speed: Speed
) -> HybridTokenizer:
    """A tokenizer that nobody else uses, whatever its types, on the device of a model in `dtype`.

    The decoder computes in that type too, except in float16, whose range its activations may leave: then it computes in
    float32, as encoder and quantiser always do; the encoder's weights may rest in fewer bits.
    """
    narrow = speed.narrows_decoder(device)
    decoder_type = torch.bfloat16 if narrow else torch.float32 if dtype == torch.float16 else dtype
    resting_type = torch.bfloat16 if narrow else torch.float32
    types = {"encoder": resting_type, "post_quant_conv": decoder_type, "decoder": decoder_type}
    for name, part in tokenizer.named_children():
        part.to(device, types.get(name, torch.float32))
    tokenizer.decoder.to(memory_format=convolution_layout(device))  # type: ignore[call-overload]
    tokenizer.in_strips = speed.tiled
    return tokenizer
