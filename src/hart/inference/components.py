"""The modules that a pipeline samples with, made once and never changed while a call may use them; and a tokenizer
alone.

A change to a pipeline (an adapter, another device, a text encoder loaded later) makes new components, which share
unchanged parts with the old ones.

Shapes: B batch, H W image, D latent channels, h w latent.
"""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hart.checkpoint.folders import CONFIG_FILE, SCORER_FILE, is_shipped
from hart.checkpoint.loading import save_model
from hart.config import HartConfig
from hart.data.transforms import pil_to_pixels, pixels_to_pil, to_signed, unit_to_pil, unit_to_pixels
from hart.devices import convolution_layout, dtype_name
from hart.errors import AdapterWarning, HartError
from hart.files import all_or_nothing, require_own_folder, require_writable
from hart.generation.arguments import OutputType
from hart.generation.outputs import Reconstruction, psnr
from hart.grids import Grid
from hart.inference.kernels import decelerate
from hart.inference.packing import is_packed
from hart.inference.speed import EXACT, Speed, accelerate, is_quantized, round_weights
from hart.layers.quantized import QuantizedLinear, dequantize_linears
from hart.model import Hart
from hart.text_encoder import TextEncoder, store_text_encoder
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class Coder:
    """A tokenizer on a device: images to latents and back. dtype: the model's, see `prepared_tokenizer`."""

    tokenizer: HybridTokenizer
    device: torch.device
    dtype: torch.dtype

    def encode(self, pixels: Tensor, grid: Grid | None = None) -> Tensor:
        """Encode an image (3, H, W) uint8, downscaled to `grid` if given: latent (D, h, w) float32 on the device."""
        image = to_signed(pixels).unsqueeze(0).to(self.device)
        return (self.tokenizer.encode(image) if grid is None else self.tokenizer.encode_small(image, grid))[0]

    def images(self, latents: Tensor, output_type: OutputType = "pil") -> Any:
        """Decode latents (B, D, h, w), one by one, to images of the given type.

        Tensors are ordinary ones that may be changed, in inference mode too.
        """
        if output_type == "latent":
            self._require_finite(latents.isfinite().all())
            with torch.inference_mode(False):
                return latents.clone()
        if output_type == "pil":
            # as whole bytes, copied from the device at the very end
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
        """Decode one latent (D, h, w) to an image (3, H, W) in [0, 1], float32 on the device."""
        return _unit(self.tokenizer.decode(latent.unsqueeze(0).to(self.device)))

    @torch.inference_mode()
    def reconstruct(self, image: Image.Image) -> Reconstruction:
        """Encode and decode an image, after cropping it to a square and resizing."""
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
        """Return the image on the CPU if it is finite."""
        self._require_finite(image.isfinite().all())
        return image.cpu()

    def _require_finite(self, finite: Tensor) -> None:
        """The only check, at the end, for values that overflowed anywhere on the way; skipped on the meta device."""
        if not finite.is_meta and not bool(finite):
            narrow = self.dtype == torch.float16
            raise HartError(
                f"the image is not finite in {dtype_name(self.dtype)}: "
                + ("use float32 or bfloat16" if narrow else "weights, an adapter or latents hold numbers far too large")
            )


@dataclass(frozen=True)
class Components(Coder):
    """The modules of one call.

    speed: the options applied to the modules. text_encoder: None until the first prompt loads it. without_lora: the
    model from before adapters were merged.
    """

    hart: Hart
    speed: Speed = EXACT
    text_encoder: TextEncoder | None = None
    without_lora: Hart | None = None

    def plain(self) -> Components:
        """Return components with ordinary layers only, to inspect, change and replace; `self` if they are already.

        Weights of 8 bits become ordinary ones with the same values. Nothing stays compiled or recorded.
        """
        recorded = self.speed.compile or self.speed.graphs
        if not (recorded or is_packed(self.hart) or is_quantized(self.hart)):
            return self
        speed = self.speed.replace(weights="plain", compile=False, graphs=False)
        return self._with(partial(_dequantized, dtype=self.dtype), speed=speed)

    def _with(self, change: Callable[[Hart], Hart], **others: Any) -> Components:
        """Return components with the model changed, also the one from before adapters; and with other fields."""
        before = None if self.without_lora is None else change(self.without_lora)
        return replace(self, hart=change(self.hart), without_lora=before, **others)

    def at_speed(self, speed: Speed) -> Components:
        """Return components at another speed. Raises `HartError` if weights would need more bits than are left."""
        rounded = is_quantized(self.hart) and speed.weights != self.speed.weights
        if rounded or (self.speed.narrows_decoder(self.device) and not speed.narrows_decoder(self.device)):
            raise HartError("this speed needs the weights from before they were rounded: open the model again")
        copy_of_own = copied(self.tokenizer, self.device, torch.float32)
        tokenizer = prepared_tokenizer(copy_of_own, self.device, self.dtype, speed)
        if self.text_encoder is not None and not speed.offload:
            self.text_encoder.to(self.device, text_encoder_dtype(self.dtype))

        def fast(hart: Hart) -> Hart:
            hart = _twin(hart)
            if speed.weights != self.speed.weights:
                decelerate(hart)
            accelerate(hart, speed)
            return hart

        return self._with(fast, tokenizer=tokenizer, speed=speed)

    def adapted(self, folder: Path, scale: float, model: str) -> Components:
        """Return components with a LoRA adapter merged into a copy of the weights; see
        `hart.checkpoint.lora.merge_lora`.

        Weights of 8 bits are rounded to 8 bits again. Warns with an `AdapterWarning` if the adapter is for other
        weights.
        """
        from hart.checkpoint.lora import base_remark, merge_lora

        remark = base_remark(self.without_lora or self.hart, folder, model)
        hart = copy.deepcopy(self.hart)
        decelerate(hart)
        dequantize_linears(hart, torch.float32)  # whatever the model's type: the only loss is one rounding
        merge_lora(hart, folder, scale, model=model)
        if remark is not None:
            warnings.warn(remark, AdapterWarning, stacklevel=3)  # the caller of `load_lora`
        accelerate(hart, self.speed)
        return replace(self, hart=hart, without_lora=self.without_lora or self.hart)

    def unadapted(self) -> Components:
        """Return components with the weights from before the first adapter; `self` if there was none."""
        return self if self.without_lora is None else replace(self, hart=self.without_lora, without_lora=None)

    def moved(self, device: torch.device, dtype: torch.dtype) -> Components:
        """Return copies on another device or in another type; `self` if nothing changes."""
        place = torch.empty(0, device=device).device  # "cuda" is "cuda:0", if that is the current one
        if (place, dtype) == (self.tokenizer.quantizer.codebook.weight.device, self.dtype):
            return self
        encoder = self.text_encoder
        if encoder is not None:
            place = torch.device("cpu") if self.speed.offload else device
            encoder = copy.deepcopy(encoder).to(place, text_encoder_dtype(dtype))

        def moved(hart: Hart) -> Hart:
            hart = copied(_decelerated(hart), device, dtype)
            accelerate(hart, self.speed)
            return hart

        tokenizer = prepared_tokenizer(copied(self.tokenizer, device, torch.float32), device, dtype, self.speed)
        return self._with(moved, tokenizer=tokenizer, device=device, dtype=dtype, text_encoder=encoder)

    def save(
        self,
        destination: Path,
        config: HartConfig,
        folder: Path | None,
        dtype: torch.dtype | None = None,
        *,
        adapted: bool = False,
    ) -> None:
        """Write a whole model, or nothing; the configuration comes last: without it a folder is not a model.

        folder: holds the text encoder, if that was not loaded, and the scorer, if there is one. dtype: how weights are
        stored, None as they are; int8 is for the large layers of transformer and diffusion, everything else is then
        stored in bfloat16. adapted: whether adapters were merged before these components were made.
        Raises `HartError` if `destination` holds a model or other files, and if adapters are not merged.
        """
        from hart.checkpoint.lora import has_lora

        require_new_model(destination, folder)
        if has_lora(self.hart):
            raise HartError(
                "the model has LoRA adapters beside its weights: store them with save_lora, or load them merged"
            )
        hart = self.hart
        if dtype == torch.int8:
            hart, dtype = _decelerated(hart), torch.bfloat16
            round_weights(hart, torch.int8)
        elif dtype is not None:
            hart = _dequantized(hart, dtype)
        try:
            with all_or_nothing(destination, CONFIG_FILE) as written:
                merged = adapted or self.without_lora is not None
                stored = store_text_encoder(
                    config.text_encoder, self.text_encoder, folder, written, dtype, adapted=merged
                )
                config = config.replace(text_encoder=stored)
                if folder is not None and (folder / SCORER_FILE).exists():
                    shutil.copyfile(folder / SCORER_FILE, written / SCORER_FILE)
                save_model(written, config, self.tokenizer, hart, dtype)
        except FileExistsError as error:
            raise HartError(f"{error.filename}: another program has just written it: choose another folder") from None


def prepared(
    tokenizer: HybridTokenizer, hart: Hart, device: torch.device, dtype: torch.dtype, speed: Speed = EXACT
) -> Components:
    """Make components from modules with no other user: moved to the device, frozen, made fast.

    Transformer and residual diffusion compute in `dtype`.
    """
    hart.to(device, dtype).eval().requires_grad_(False)
    tokenizer.eval().requires_grad_(False)
    accelerate(hart, speed)
    return Components(prepared_tokenizer(tokenizer, device, dtype, speed), device, dtype, hart, speed)


def _unit(images: Tensor) -> Tensor:
    """Return the image (3, H, W) in [0, 1], float32, of a single decoded image (1, 3, H, W) in [-1, 1]."""
    return (images[0].float() + 1) / 2


def of_type(images: Sequence[Image.Image], output_type: OutputType) -> Any:
    """Return finished RGB images of one size as a list, an array or a tensor."""
    if output_type == "pil":
        return images
    array = np.stack([np.asarray(image) for image in images]).astype(np.float32) / 255
    with torch.inference_mode(False):
        return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2)


def prepared_tokenizer(
    tokenizer: HybridTokenizer, device: torch.device, dtype: torch.dtype, speed: Speed
) -> HybridTokenizer:
    """Move a tokenizer with no other user, of any types, to the device of a model in `dtype`.

    The decoder computes in that type too, except that in float16, where its activations may overflow, it computes in
    float32, as encoder and quantiser always do; the encoder's weights may be stored in fewer bits.
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


def text_encoder_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the text encoder's type for a model in `dtype`: language models overflow float16."""
    return torch.float32 if dtype == torch.float16 else dtype


def copied(module: AnyModule, device: torch.device, dtype: torch.dtype) -> AnyModule:
    """Return a frozen copy of a module on a device in a type, without an intermediate copy in its own type."""
    memo: dict[int, object] = {}
    keep_type = {id(b) for layer in module.modules() if isinstance(layer, QuantizedLinear) for b in layer.buffers()}
    for tensor in chain(module.parameters(), module.buffers()):
        cast = tensor.is_floating_point() and id(tensor) not in keep_type
        value = tensor.detach().to(device, dtype if cast else None, copy=True)
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo)


def require_new_model(destination: Path, source: Path | None) -> None:
    """Raise `HartError` unless a model can be written there: in an empty or new folder, whose name then opens it.

    The initial files of a new hub repository may be there.
    """
    if destination.exists() and not destination.is_dir():
        raise HartError(f"{destination}: is a file: give a folder")
    if source is not None and destination.exists() and destination.samefile(source):
        raise HartError(f"{destination}: is the model's own folder: choose another")
    if is_shipped(str(destination)):
        raise HartError(f"{destination}: this name opens the package's own model: choose another folder")
    if os.path.lexists(destination / CONFIG_FILE):
        raise HartError(f"{destination}: already holds a model: choose another folder")
    require_own_folder(destination, r"(README|LICENSE|NOTICE)(\.\w+)?")
    require_writable(destination)


def _twin(hart: Hart) -> Hart:
    """Return a second module tree over the same tensors."""
    return copy.deepcopy(hart, {id(tensor): tensor for tensor in chain(hart.parameters(), hart.buffers())})


def _decelerated(hart: Hart) -> Hart:
    """Return a second module tree over the same tensors, without packed layers and kernels."""
    twin = _twin(hart)
    decelerate(twin)
    return twin


def _dequantized(hart: Hart, dtype: torch.dtype) -> Hart:
    """Return the same tree with 8-bit layers replaced by ordinary ones in `dtype`."""
    plain = _decelerated(hart)
    dequantize_linears(plain, dtype)
    return plain
