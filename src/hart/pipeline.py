"""From words to pictures: the only file that knows all stages.

    prompt -> text encoder -> next-scale generation -> latent -> decoder -> picture

Every picture has a seed and a generator of its own, so that it does not depend on its neighbours in a batch. Only
rounding does: matrix products of another shape differ in their last digits, and sampling can amplify them. On a
CPU pictures therefore go one at a time, and picture i of a call is bit for bit the one made alone with its seed.

Shapes: D latent channels, n_K side of the latent.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from hart.checkpoint.loading import load_model, resolve_model
from hart.checkpoint.random_weights import random_model
from hart.checkpoint.storage import fingerprint
from hart.config import MAX_SEED, HartConfig, SamplingConfig
from hart.conversion import store_model
from hart.data.transforms import pil_to_pixels, to_signed, unit_to_pil
from hart.devices import resolve_device, resolve_dtype
from hart.errors import HartError, PromptWarning
from hart.files import user_path
from hart.generation.draws import GeneratorDraws
from hart.generation.next_scale import NextScaleGenerator, ScaleStep
from hart.generation.outputs import HartOutput, Reconstruction, ScalePreview
from hart.generation.request import Prompt, check_size, checked_prompts, checked_seed, checked_settings, whole_number
from hart.inference.parts import Parts, copied, prepared
from hart.model import Hart
from hart.text_encoder import TextEncoder, encoder_module, load_text_encoder
from hart.text_encoder.random_features import RandomTextFeatures
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.types import ClassContext, Context, TextContext

__all__ = ["GPU_BATCH", "HartOutput", "HartPipeline", "Reconstruction", "ScalePreview"]

GPU_BATCH = 4
"""Pictures drawn together on a GPU unless the caller says otherwise."""
MAX_BATCH = 2**12

log = logging.getLogger(__name__)


class HartPipeline:
    """A whole model on one device; call it with prompts."""

    @torch.inference_mode(False)
    def __init__(
        self,
        config: HartConfig,
        tokenizer: HybridTokenizer,
        hart: Hart,
        *,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        """Draws with copies of the modules as they are now; the caller's own stay as they were.

        device, dtype: where and in what type they compute, see `hart.inference.parts.prepared`.
        folder: where a text encoder that is stored with the model is found when the first prompt comes.
        text_encoder: used instead of the one that the configuration names. Raises `HartError` if its features
            are not what the transformer takes.
        """
        tokenizer, hart = copied(tokenizer, device, torch.float32), copied(hart, device, dtype)
        self._take(config, tokenizer, hart, device, dtype, folder, text_encoder)

    def _take(
        self,
        config: HartConfig,
        tokenizer: HybridTokenizer,
        hart: Hart,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path | None,
        text_encoder: TextEncoder | None,
    ) -> Self:
        """Start with modules that nobody else uses, so that weights are held once."""
        if text_encoder is not None:
            _check_text_encoder(text_encoder, config)
        self.config = config
        self.device = device
        self.dtype = dtype
        self.folder = folder
        self._parts = replace(prepared(tokenizer, hart, device, dtype), text_encoder=text_encoder)
        self._lock = threading.RLock()
        return self

    @classmethod
    @torch.inference_mode(False)  # parts are ordinary tensors wherever they are made
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> Self:
        """Open a model: one shipped with the package ("emoji"), a folder in any supported layout, or a hub id.

        device: "cpu", "cuda", "cuda:1", "mps"; by default CUDA where there is one. dtype: float32, bfloat16 or float16;
        by default bfloat16 on CUDA, else float32. text_encoder: used instead of the model's own. Raises
        `HartError` for an unknown model, a damaged one, or a device that is not there.
        """
        place = resolve_device(device)
        number_type = resolve_dtype(dtype, place)
        model = load_model(resolve_model(name), number_type)
        return cls.__new__(cls)._take(
            model.config, model.tokenizer, model.hart, place, number_type, model.folder, text_encoder
        )

    @classmethod
    @torch.inference_mode(False)  # parts are ordinary tensors wherever they are made
    def from_config(
        cls, config: HartConfig, *, seed: int = 0, device: str | None = None, dtype: torch.dtype | str | None = None
    ) -> Self:
        """A model of this size with random weights and random text features: for timings and tests, not pictures."""
        seed = checked_seed(seed)
        place = resolve_device(device)
        number_type = resolve_dtype(dtype, place)
        generator = torch.Generator().manual_seed(seed)
        tokenizer, hart = random_model(config, generator, dtype=number_type)
        text = config.transformer.text
        encoder = RandomTextFeatures(text, seed) if text is not None else None
        return cls.__new__(cls)._take(config, tokenizer, hart, place, number_type, None, encoder)

    @property
    def parts(self) -> Parts:
        """The modules that a call draws with from now on, for looking at them; to change weights, take `hart`."""
        return self._parts

    @property
    def tokenizer(self) -> HybridTokenizer:
        return self._parts.tokenizer

    @property
    def hart(self) -> Hart:
        """Transformer and residual diffusion as plain modules, to look at, change, train or store.

        The pipeline draws with them as they are from then on, changes included. On x86 processors that is slower than
        before, by a seventh at 0.7B: nothing is packed any more (`hart.inference.packing`). A copy of the pipeline
        made by its constructor, or `load_lora`, packs again.
        """
        with self._lock, torch.inference_mode(False):
            plain = self._parts.plain()
            if plain is not self._parts:
                log.info("the model's plain modules were asked for: it draws with them from now on, packed no more")
                self._parts = plain
            return plain.hart

    def load_lora(self, folder: str | Path, scale: float = 1.0) -> None:
        """Merge a LoRA adapter (see `hart.checkpoint.lora`) into the transformer; several add up.

        Calls that are drawing in other threads finish with the weights that they began with.
        scale: strength of the adapter; 1 is as trained. To be rid of it, open the model again. Raises `HartError` for
        an adapter that is damaged or of another model; nothing is changed then.
        """
        with self._lock, torch.inference_mode(False):
            model = str(self.folder or "this model")
            self._parts = self._parts.adapted(user_path(folder), scale, model)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | str | None = None) -> None:
        """Write the whole model to a folder that `from_pretrained` opens: text encoder included, adapters merged.

        dtype: how weights are stored, by default as they are here. Raises `HartError` where the folder holds a model
        or parts of one, or a text encoder cannot be stored.
        """
        stored = None if dtype is None else resolve_dtype(dtype, self.device)
        parts = self._parts
        store_model(
            user_path(folder), self.config, parts.tokenizer, parts.hart, parts.text_encoder, self.folder, stored
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def fingerprints(self) -> dict[str, str]:
        """What tells the weights of each part from others; see `hart.checkpoint.storage.fingerprint`.

        Keys: transformer (with the residual diffusion), tokenizer and, for a text model, text_encoder.
        """
        parts = self._parts
        found = {"transformer": fingerprint(parts.hart), "tokenizer": fingerprint(parts.tokenizer)}
        if self.config.transformer.text is not None:
            encoder = self.text_encoder
            if isinstance(encoder, RandomTextFeatures):
                found["text_encoder"] = f"random features, seed {encoder.config.seed}"
            else:
                found["text_encoder"] = fingerprint(encoder_module(encoder))
        return found

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.config.tokenizer.image_size

    @property
    def num_classes(self) -> int | None:
        """How many classes a class-conditional model draws; None for a text model."""
        classes = self.config.transformer.classes
        return None if classes is None else classes.num_classes

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Prompt | Iterable[Prompt],
        *,
        images_per_prompt: int = 1,
        seed: int = 0,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        smooth: bool | None = None,
        rounds: int | None = None,
        diffusion_steps: int | None = None,
        discrete_only: bool | None = None,
        size: int | None = None,
        batch_size: int | None = None,
        sampling: SamplingConfig | None = None,
        on_scale: Callable[[ScalePreview], None] | None = None,
        on_batch: Callable[[HartOutput], None] | None = None,
        collect: bool = True,
    ) -> HartOutput:
        """Draw `images_per_prompt` pictures of every prompt; picture i has the seed `seed + i`.

        prompts: words for a text model, class numbers for a class model.
        guidance_scale, top_k, top_p, smooth, rounds, diffusion_steps, discrete_only: see `SamplingConfig`; what is
            None is taken from `sampling`, by default the model's own settings. top_k 0 and top_p 1 keep all codes.
        size: side in pixels; a model has one, and any other is an error.
        batch_size: pictures drawn together; by default 1 on a CPU and `GPU_BATCH` elsewhere.
        on_scale: called after every scale of every batch.
        on_batch: called with every batch as soon as it is drawn.
        collect: False returns no pictures, which then take no memory once `on_batch` has had them.
        Raises `HartError` for input that the model cannot draw. A prompt of which the text encoder leaves words out or
        does not know some is drawn all the same, with a `PromptWarning`.
        """
        checked = checked_prompts(prompts, self.num_classes)
        check_size(size, self.config)
        images_per_prompt = whole_number("images_per_prompt", images_per_prompt, 1, MAX_SEED)
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1, MAX_BATCH)
        settings = checked_settings(
            self.config,
            sampling,
            {
                "guidance_scale": guidance_scale,
                "top_k": top_k,
                "top_p": top_p,
                "smooth": smooth,
                "rounds": rounds,
                "diffusion_steps": diffusion_steps,
                "discrete_only": discrete_only,
            },
        )
        batch_size = batch_size or (1 if self.device.type == "cpu" else GPU_BATCH)

        parts = self._parts  # of the whole call, whatever is loaded meanwhile
        count = len(checked) * images_per_prompt
        first_seed = checked_seed(seed, count)
        collected = HartOutput([], [], [], settings, batch_size)
        contexts: dict[Prompt, Context] = {}
        for number, start in enumerate(range(0, count, batch_size)):
            pictures = range(start, min(start + batch_size, count))
            wanted = [checked[i // images_per_prompt] for i in pictures]
            seeds = [first_seed + i for i in pictures]
            # pictures of one prompt follow each other: what the last batch knew is enough to remember
            known, contexts = contexts, {}
            for prompt in wanted:
                if prompt not in contexts:
                    contexts[prompt] = known[prompt] if prompt in known else self._context(prompt)
            generators = [torch.Generator().manual_seed(one) for one in seeds]
            generator = NextScaleGenerator(
                parts.hart,
                parts.tokenizer.quantizer,
                settings,
                GeneratorDraws(generators, self.device),
                on_scale=self._previewer(on_scale, number, -(-count // batch_size), pictures),
            )
            latent = generator(_stack([contexts[prompt] for prompt in wanted]))
            drawn = [self._decode(one) for one in latent]
            batch = HartOutput(drawn, wanted, seeds, settings, batch_size)
            if on_batch is not None:
                on_batch(batch)
            if collect:
                collected.images.extend(batch.images)
                collected.prompts.extend(batch.prompts)
                collected.seeds.extend(batch.seeds)
        return collected

    @torch.inference_mode()
    def reconstruct(self, image: Image.Image) -> Reconstruction:
        """Encode and decode an image with the tokenizer alone; it is cut to a square and resized first."""
        pixels = pil_to_pixels(image, self.image_size)
        latent = self.tokenizer.encode(to_signed(pixels).unsqueeze(0).to(self.device))
        original = pixels.float() / 255
        discrete = self._decode_unit(self.tokenizer.quantize(latent).latent[0])
        hybrid = self._decode_unit(latent[0])
        return Reconstruction(
            original=unit_to_pil(original),
            discrete=unit_to_pil(discrete),
            hybrid=unit_to_pil(hybrid),
            discrete_psnr=_psnr(discrete, original),
            hybrid_psnr=_psnr(hybrid, original),
        )

    @property
    def text_encoder(self) -> TextEncoder:
        """The prompt encoder, loaded at the first use. Raises `HartError` where the model has none."""
        # as ordinary tensors also when the first prompt asks for them
        with self._lock, torch.inference_mode(False):
            encoder = self._parts.text_encoder
            if encoder is None:
                config = self.config.text_encoder
                if config is None:
                    raise HartError("this model names no text encoder: pass one as text_encoder")
                # language models leave the range of float16
                encoder_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
                encoder = load_text_encoder(config, self.folder, encoder_dtype).to(self.device, encoder_dtype)
                _check_text_encoder(encoder, self.config)
                self._parts = replace(self._parts, text_encoder=encoder)
            return encoder

    def _context(self, prompt: Prompt) -> Context:
        """The context of one picture. Prompts are encoded alone, so that their neighbours change nothing."""
        if isinstance(prompt, str):
            for remark in self.text_encoder.reading([prompt])[0].remarks(prompt):
                warnings.warn(remark, PromptWarning, stacklevel=4)  # 4: the line that called the pipeline
            return self.text_encoder.encode([prompt]).to(self.device)
        assert self.num_classes is not None
        return ClassContext(torch.full((1,), prompt, device=self.device), self.num_classes)

    def _previewer(
        self, on_scale: Callable[[ScalePreview], None] | None, batch: int, batches: int, pictures: range
    ) -> Callable[[ScaleStep], None] | None:
        if on_scale is None:
            return None
        return lambda step: on_scale(
            ScalePreview(step.k, step.scales, batch, batches, pictures, step.latent, self._decode)
        )

    def _decode(self, latent: Tensor) -> Image.Image:
        return unit_to_pil(self._decode_unit(latent))

    @torch.inference_mode()
    def _decode_unit(self, latent: Tensor) -> Tensor:
        """One latent (D, n_K, n_K) to an image (3, H, W) in [0, 1], float32 on the CPU."""
        image = self.tokenizer.decode(latent.unsqueeze(0))[0].float().cpu()
        if not bool(image.isfinite().all()):
            raise HartError(f"the picture is not finite in {self.dtype}: draw it in float32 or bfloat16")
        return (image + 1) / 2


def _check_text_encoder(encoder: TextEncoder, config: HartConfig) -> None:
    """Raise `HartError` unless the encoder's features are what the transformer takes."""
    text = config.transformer.text
    if text is None:
        raise HartError("this model draws classes by number: it takes no text encoder")
    if (encoder.config.tokens, encoder.width) != (text.tokens, text.width):
        raise HartError(
            f"the text encoder gives {encoder.config.tokens} tokens of width {encoder.width}, "
            f"the transformer takes {text.tokens} of width {text.width}: they are not of one model"
        )


def _stack(contexts: Sequence[Context]) -> Context:
    if isinstance(contexts[0], TextContext):
        return TextContext.cat([context for context in contexts if isinstance(context, TextContext)])
    return ClassContext.cat([context for context in contexts if isinstance(context, ClassContext)])


def _psnr(image: Tensor, original: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images in [0, 1]."""
    error = float((image - original).double().square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
