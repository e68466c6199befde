"""The modules that a pipeline samples with: made once, never changed while a call may use them.

A change to a pipeline (an adapter, another device, a text encoder that is loaded late) makes new components, which
share with the old ones what stays the same.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hart.checkpoint.loading import save_model
from hart.checkpoint.lora import has_lora, merge_lora
from hart.checkpoint.storage import CONFIG_FILE, HART_FILE, TEXT_ENCODER_FILE, TOKENIZER_FILE
from hart.config import HartConfig
from hart.data.transforms import pixels_to_pil, unit_to_pixels
from hart.devices import dtype_name
from hart.errors import HartError
from hart.generation.request import OutputType
from hart.inference.packing import is_packed, pack, unpack_linears
from hart.model import Hart
from hart.text_encoder import STORED_FOLDER, TextEncoder, store_text_encoder
from hart.text_encoder.compact import PIECES_FILE
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

FILES = (CONFIG_FILE, TOKENIZER_FILE, HART_FILE, TEXT_ENCODER_FILE, PIECES_FILE, STORED_FOLDER)

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class Components:
    """What one call samples with.

    text_encoder: None until the first prompt loads it. without_lora: the model from before adapters were merged.
    """

    tokenizer: HybridTokenizer
    hart: Hart
    device: torch.device
    dtype: torch.dtype
    text_encoder: TextEncoder | None = None
    without_lora: Hart | None = None

    def decode(self, latent: Tensor) -> Tensor:
        """One latent (D, h, w) to an image (3, H, W) in [0, 1], float32 on the CPU."""
        image = self._decoded(latent)
        self._require_finite(image.isfinite().all())
        return image.cpu()

    def images(self, latents: Tensor, output_type: OutputType = "pil") -> Any:
        """Latents (B, D, h, w), decoded one by one, as images of the given type."""
        if output_type == "latent":
            self._require_finite(latents.isfinite().all())
            return latents
        if output_type == "pil":
            # whole bytes leave the device, after all else
            decoded = [self._decoded(latent) for latent in latents]
            finite = torch.stack([image.isfinite().all() for image in decoded]).all()
            pixels = torch.stack([unit_to_pixels(image) for image in decoded]).cpu()
            self._require_finite(finite)
            return [pixels_to_pil(image) for image in pixels]
        stacked = torch.stack([self.decode(latent) for latent in latents])
        return stacked if output_type == "pt" else stacked.permute(0, 2, 3, 1).numpy()

    def _decoded(self, latent: Tensor) -> Tensor:
        """One latent (D, h, w) to an image (3, H, W) in [0, 1], float32 on the device."""
        return (self.tokenizer.decode(latent.unsqueeze(0).to(self.device))[0].float() + 1) / 2

    def _require_finite(self, finite: Tensor) -> None:
        """The one look, at the end, for numbers that left their range anywhere on the way."""
        if not bool(finite):
            raise HartError(f"the image is not finite in {dtype_name(self.dtype)}: use float32 or bfloat16")

    def plain(self) -> Components:
        """These components with no layer packed, so that weights can be seen and changed; themselves if none is."""
        return replace(self, hart=_unpacked(self.hart)) if is_packed(self.hart) else self

    def adapted(self, folder: Path, scale: float, model: str) -> Components:
        """With a LoRA adapter merged into a copy of the weights; see `hart.checkpoint.lora.merge_lora`."""
        hart = copy.deepcopy(self.hart)
        unpack_linears(hart)
        merge_lora(hart, folder, scale, model=model)
        pack(hart)
        return replace(self, hart=hart, without_lora=self.without_lora or self.hart)

    def unadapted(self) -> Components:
        """With the weights as they were before the first adapter; these parts if there was none."""
        return self if self.without_lora is None else replace(self, hart=self.without_lora, without_lora=None)

    def moved(self, device: torch.device, dtype: torch.dtype) -> Components:
        """Copies on another device or in another type; these components if nothing changes."""
        if (device, dtype) == (self.device, self.dtype):
            return self
        moved = prepared(
            copied(self.tokenizer, device, torch.float32), copied(_unpacked(self.hart), device, dtype), device, dtype
        )
        encoder, before = self.text_encoder, self.without_lora
        if encoder is not None:
            encoder = copy.deepcopy(encoder).to(device, text_encoder_dtype(dtype))
        if before is not None:
            before = copied(_unpacked(before), device, dtype)
            pack(before)
        return replace(moved, text_encoder=encoder, without_lora=before)

    def save(
        self, destination: Path, config: HartConfig, folder: Path | None, dtype: torch.dtype | None = None
    ) -> None:
        """Write a whole model; the configuration last, so that an unfinished folder is not taken for a model.

        folder: holds the text encoder, if that was not loaded. dtype: how weights are stored, None as they are.
        Raises `HartError` if `destination` holds a model, and for adapters that are not merged.
        """
        require_new_model(destination, folder)
        if has_lora(self.hart):
            raise HartError(
                "the model has LoRA adapters beside its weights: store them with save_lora, or load them merged"
            )
        try:
            described = store_text_encoder(config.text_encoder, self.text_encoder, folder, destination, dtype)
            config = config.replace(text_encoder=described)
            save_model(destination, config, self.tokenizer, self.hart, dtype, overwrite=False)
        except FileExistsError as error:
            raise HartError(f"{error.filename}: another program has just written it: choose another folder") from None


def prepared(tokenizer: HybridTokenizer, hart: Hart, device: torch.device, dtype: torch.dtype) -> Components:
    """Components from modules that nobody else uses: moved to the device, frozen, packed.

    Transformer and residual diffusion compute in `dtype`, and so does the decoder, except in float16, whose range its
    activations may leave: then it stays in float32, as encoder and quantiser always do.
    """
    hart.to(device, dtype).eval().requires_grad_(False)
    tokenizer.to(device, torch.float32).eval().requires_grad_(False)
    if dtype != torch.float16:
        tokenizer.decoder.to(dtype)
        tokenizer.post_quant_conv.to(dtype)
    # convolutions run on channels-last memory without reordering it
    tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pack(hart)
    return Components(tokenizer, hart, device, dtype)


def text_encoder_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which the text encoder of a model in `dtype` computes: language models overflow float16."""
    return torch.float32 if dtype == torch.float16 else dtype


def copied(module: AnyModule, device: torch.device, dtype: torch.dtype) -> AnyModule:
    """A frozen copy of a module on a device in a type, without an intermediate copy in its own type."""
    memo: dict[int, object] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        value = tensor.detach().to(device, dtype if tensor.is_floating_point() else None, copy=True)
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo)


def require_new_model(destination: Path, source: Path | None) -> None:
    """Raise `HartError` if writing a model would overwrite anything, or write into the folder that it is read from."""
    if destination.exists() and not destination.is_dir():
        raise HartError(f"{destination}: is a file: give a folder")
    if source is not None and destination.exists() and destination.samefile(source):
        raise HartError(f"{destination}: is the model's own folder: choose another")
    there = [name for name in FILES if os.path.lexists(destination / name)]
    if CONFIG_FILE in there:
        raise HartError(f"{destination}: already holds a model: choose another folder")
    if there:
        raise HartError(f"{destination}: already holds {', '.join(there)}: choose another folder, or remove them")


def _unpacked(hart: Hart) -> Hart:
    """A second tree of modules over the same tensors, with plain layers in place of packed ones."""
    twin = copy.deepcopy(hart, {id(tensor): tensor for tensor in chain(hart.parameters(), hart.buffers())})
    unpack_linears(twin)
    return twin
