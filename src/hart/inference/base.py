"""A whole model on one device: opened, moved, adapted and stored. `hart.pipeline` adds generation from prompts."""

from __future__ import annotations

import inspect
import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from hart.checkpoint.hub import upload
from hart.checkpoint.loading import load_config, load_model, random_model, resolve_model
from hart.checkpoint.storage import fingerprint
from hart.config import HartConfig, SamplingConfig
from hart.devices import resolve_device, resolve_dtype, resolve_stored_dtype, slow_remarks
from hart.errors import HartError
from hart.files import AnyPath, user_path
from hart.generation.arguments import checked_seed
from hart.inference.components import Components, copied, prepared, text_encoder_dtype
from hart.inference.kernels import with_kernel
from hart.inference.speed import EXACT, INT8, Speed, described, is_quantized, resolve_speed
from hart.layers.linear import own_modes
from hart.model import Hart
from hart.strict import counted, has_members, shown
from hart.text_encoder import RandomTextFeatures, TextEncoder, encoder_module, load_text_encoder
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

log = logging.getLogger(__name__)

NO_TEXT = "this model generates classes by number: it takes no text encoder"


class BasePipeline:
    """The modules of a model and methods that change them. Thread-safe: a call keeps the modules it began with."""

    @own_modes()
    def __init__(
        self,
        config: HartConfig,
        tokenizer: HybridTokenizer,
        hart: Hart,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        folder: Path | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        """Copy the modules as they are now; the caller's own stay unchanged.

        device, dtype: where and in what type they compute, as in `from_pretrained`; a `torch.device` is used as given.
        folder: holds the text encoder stored with the model, which is loaded at the first prompt.
        text_encoder: in place of the one that the configuration names. Raises `HartError` if the transformer does not
            take its features.
        """
        if not (isinstance(config, HartConfig) and isinstance(tokenizer, HybridTokenizer) and isinstance(hart, Hart)):
            raise HartError("give a HartConfig, a HybridTokenizer and a Hart, or open a model with from_pretrained")
        place = device if isinstance(device, torch.device) else resolve_device(device)
        number_type = resolve_dtype(dtype, place)
        tokenizer, hart = copied(tokenizer, place, torch.float32), copied(hart, place, number_type)
        self._start(config, prepared(tokenizer, hart, place, number_type), folder, text_encoder)

    def _start(
        self, config: HartConfig, parts: Components, folder: Path | None, text_encoder: TextEncoder | None
    ) -> Self:
        if text_encoder is not None:
            _check_text_encoder(text_encoder, config)
        self.config = config
        self.folder = None if folder is None else folder.absolute()  # also read later, in any working directory
        self._components = replace(parts, text_encoder=text_encoder)
        self._progress_bar: dict[str, Any] = {"disable": True}
        self._lock = threading.RLock()
        return self

    @classmethod
    @own_modes()
    def from_pretrained(
        cls,
        name: AnyPath,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        text_encoder: TextEncoder | None = None,
        speed: Speed | str | None = None,
    ) -> Self:
        """Open a model: one shipped with the package ("emoji"), a folder in any supported layout, or a hub id.

        device: "cpu", "cuda", "cuda:1", "mps"; by default CUDA if there is one. dtype: float32, bfloat16 or float16;
        by default bfloat16 on CUDA, else float32. text_encoder: in place of the model's own. speed: see `optimize`; by
        default int8 for a model that is stored in 8 bits, unless its configuration says `dequantize`, else exact.
        Raises `HartError` for an unknown or damaged model, or a device that is not there.
        """
        place = resolve_device(device)
        number_type = resolve_dtype(dtype, place)
        wanted = None if speed is None else resolve_speed(speed, place)
        keep = partial(with_kernel, device=place) if wanted is None or wanted.weights == "int8" else None
        model = load_model(resolve_model(name), number_type, eight_bits=keep, tokenizer_dtype=None)
        if wanted is None:
            wanted = resolve_speed(INT8 if is_quantized(model.hart) else EXACT, place, own="int8")
        parts = prepared(model.tokenizer, model.hart, place, number_type, wanted)
        return cls.__new__(cls)._start(model.config, parts, model.folder, text_encoder)

    @classmethod
    @own_modes()
    def from_config(
        cls,
        config: HartConfig | AnyPath,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        speed: Speed | str | None = None,
    ) -> Self:
        """Make a model of this size with random weights and random text features: for timings and tests, not images.

        config: a configuration, or the name of one: a preset ("hart-0.7b-1024"), a model, or a JSON file. speed: see
        `optimize`; by default exact.
        """
        seed = checked_seed(seed)
        place = resolve_device(device)
        number_type = resolve_dtype(dtype, place)
        wanted = resolve_speed(EXACT if speed is None else speed, place)
        config = config if isinstance(config, HartConfig) else load_config(config)
        tokenizer, hart = random_model(config, torch.Generator().manual_seed(seed), dtype=number_type)
        text = config.transformer.text
        encoder = RandomTextFeatures(text, seed) if text is not None else None
        return cls.__new__(cls)._start(config, prepared(tokenizer, hart, place, number_type, wanted), None, encoder)

    @property
    def components(self) -> Components:
        """Return the modules that the next call samples with, for inspection; to change weights, use `hart`."""
        return self._components

    @property
    def device(self) -> torch.device:
        return self._components.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type in which the transformer computes."""
        return self._components.dtype

    @property
    def tokenizer(self) -> HybridTokenizer:
        return self._components.tokenizer

    @property
    def hart(self) -> Hart:
        """Return transformer and residual diffusion as plain modules, to inspect, change, train or store.

        From then on the pipeline samples with exactly these modules, changes included. On x86 processors that is
        slower, by a seventh at 0.7B, since their layers are not packed (`hart.inference.packing`). Copying the pipeline
        by its constructor packs them again, and so does `load_lora`.
        """
        with self._lock, own_modes():
            plain = self._components.plain()
            if plain is not self._components:
                log.info("the plain modules were requested: from now on the model samples with them, unpacked")
                self._components = plain
            return plain.hart

    @property
    def text_encoder(self) -> TextEncoder:
        """Return the prompt encoder, loaded on first use. Raises `HartError` if the model has none."""
        with self._lock, own_modes():
            encoder, dtype = self._components.text_encoder, text_encoder_dtype(self.dtype)
            if encoder is None:
                if self.num_classes is not None:
                    raise HartError(NO_TEXT)
                if self.config.text_encoder is None:
                    raise HartError("this model names no text encoder: pass one as text_encoder")
                place = torch.device("cpu") if self.speed.offload else self.device
                encoder = load_text_encoder(self.config.text_encoder, self.folder, dtype).to(place, dtype)
                _check_text_encoder(encoder, self.config)
                self._components = replace(self._components, text_encoder=encoder)
            return encoder

    @contextmanager
    def _working_text_encoder(self) -> Iterator[TextEncoder]:
        """Give the prompt encoder on the pipeline's device; if off-loaded, it returns to main memory afterwards."""
        encoder = self.text_encoder
        if not self.speed.offload or self.device.type == "cpu":
            yield encoder
            return
        with self._lock:
            try:
                yield encoder.to(self.device, text_encoder_dtype(self.dtype))
            finally:
                encoder.to(torch.device("cpu"), text_encoder_dtype(self.dtype))

    @property
    def image_size(self) -> int:
        """Return width and height of the images in pixels."""
        return self.config.tokenizer.image_size

    @property
    def num_classes(self) -> int | None:
        """Return how many classes a class-conditional model knows; None for a text model."""
        return self.config.num_classes

    def to(
        self, device: torch.device | torch.dtype | str | None = None, dtype: torch.dtype | str | None = None
    ) -> Self:
        """Move the model to a device, change its number type, or both; returns the pipeline. None changes nothing.

        `to(torch.bfloat16)` changes the type, as in torch.

        Calls running in other threads finish where they began.
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                raise HartError(f"two number types: {device} and {dtype}")
            device, dtype = None, device
        with self._lock, own_modes():
            place = self.device if device is None else resolve_device(device)
            self._components = self._components.moved(
                place, self.dtype if dtype is None else resolve_dtype(dtype, place)
            )
        return self

    def optimize(self, speed: Speed | str) -> list[str]:
        """Bring the model to a level of speed ("exact", "int8", ...) or to options of your own; see `Speed`.

        Returns what is done from now on, a line each, and what this machine cannot do. Calls running in other threads
        finish as they began. Raises `HartError` for an unknown level, one that the device cannot serve, and a level
        with ordinary weights if only 8-bit ones are left.
        """
        with self._lock, own_modes():
            self._components = self._components.at_speed(resolve_speed(speed, self.device, own=self.speed.weights))
            return self.speed_remarks()

    @property
    def speed(self) -> Speed:
        """Return the speed options in use."""
        return self._components.speed

    @property
    def sampling(self) -> SamplingConfig:
        """Return the default settings of a call: the model's own, as changed by its speed."""
        return self.speed.sampling(self.config)

    def speed_remarks(self, *, chosen: bool = True) -> list[str]:
        """Return what is done for speed, a line each, and what this machine cannot do.

        chosen: whether a person chose this speed; otherwise only a number type that is slow here is reported.
        """
        if not chosen:
            return slow_remarks(self.dtype, self.device)
        return described(self.speed, self.device, self.dtype, self.config)

    def load_lora(self, folder: AnyPath, scale: float = 1.0) -> None:
        """Merge a LoRA adapter (see `hart.checkpoint.lora`) into a copy of the transformer's weights; several add up.

        The original weights stay in memory for `unload_lora`. Calls running in other threads finish with the weights
        they began with. scale: strength of the adapter; 1 is as trained. Warns with an `AdapterWarning` if it was
        trained on other weights. Raises `HartError` and changes nothing if the adapter is damaged or does not fit the
        model.
        """
        with self._lock, own_modes():
            self._components = self._components.adapted(user_path(folder), scale, str(self.folder or "this model"))

    def unload_lora(self) -> None:
        """Restore exactly the weights from before the first adapter; does nothing if none was loaded."""
        with self._lock:
            self._components = self._components.unadapted()

    def save_pretrained(self, folder: AnyPath, dtype: torch.dtype | str | None = None) -> None:
        """Write the whole model to a folder that `from_pretrained` opens: text encoder included, adapters merged.

        dtype: how weights are stored, by default as they are now; "int8" stores large layers in 8 bits.
        Raises `HartError` if the folder holds a model or other files, or the text encoder cannot be stored.
        """
        stored = None if dtype is None else resolve_stored_dtype(dtype)
        self._components.save(user_path(folder), self.config, self.folder, stored)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a HART model",
        dtype: torch.dtype | str | None = None,
    ) -> str:
        """Store the model, as `save_pretrained` does, in a Hugging Face repository; returns the commit's URL.

        private: whether a new repository is private. token: None uses the one that `hf auth login` stored.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype)
            return upload(Path(folder), repo_id, private=private, token=token, message=commit_message)

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set tqdm options for the progress bar over scales, which is off by default: `disable=False` shows it.

        Raises `HartError` for options that tqdm does not have, and for `total`, which the call itself sets.
        """
        known = sorted(set(inspect.signature(tqdm.__init__).parameters) - {"self", "total", "iterable", "kwargs"})
        if unknown := sorted(set(options) - set(known)):
            raise HartError(f"unknown progress bar option(s) {', '.join(unknown)}; known are {', '.join(known)}")
        self._progress_bar = self._progress_bar | options

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of each part's weights; see `hart.checkpoint.storage.fingerprint`.

        Keys: transformer (with the residual diffusion), tokenizer and, for a text model, text_encoder.
        """
        components = self._components
        found = {"transformer": fingerprint(components.hart), "tokenizer": fingerprint(components.tokenizer)}
        if self.config.transformer.text is not None:
            encoder = self.text_encoder
            if isinstance(encoder, RandomTextFeatures):
                found["text_encoder"] = f"random features, seed {encoder.config.seed}"
            else:
                found["text_encoder"] = fingerprint(encoder_module(encoder))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())
        with own_modes():  # a copy of modules lacks what was compiled, and the kept null token
            self._components = self._components.at_speed(self.speed)


def _check_text_encoder(encoder: TextEncoder, config: HartConfig) -> None:
    """Raise `HartError` unless the transformer takes the encoder's features."""
    text = config.transformer.text
    if text is None:
        raise HartError(NO_TEXT)
    if not has_members(encoder, TextEncoder):
        raise HartError(f"text_encoder must be a TextEncoder (see hart.text_encoder.base), not {shown(encoder)}")
    if (encoder.config.tokens, encoder.width) != (text.tokens, text.width):
        raise HartError(
            f"the text encoder gives {counted(encoder.config.tokens, 'token')} of width {encoder.width}, "
            f"the transformer takes {text.tokens} of width {text.width}: they belong to different models"
        )
