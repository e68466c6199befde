"""Checks of what callers pass to a pipeline: numpy scalars become plain Python numbers, bad input a `HartError`."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from hart.config import MAX_SEED, HartConfig, SamplingConfig
from hart.errors import HartError
from hart.grids import ScaleSchedule
from hart.strict import as_index, counted, shown, whole_number
from hart.types import ClassContext, Context, TextContext

MAX_PROMPT_LENGTH, MAX_BATCH = 10**5, 2**12

Prompt = str | int
"""Text for a text model; for a class model the number of a class, or its digits."""

OutputType = Literal["pil", "np", "pt", "latent"]
"""As in diffusers: a list of images; an array (B, H, W, 3) float32 or a tensor (B, 3, H, W) float32 on the CPU, both in
[0, 1]; or the undecoded latents (B, D, h, w) float32."""


class SamplingOptions(TypedDict, total=False):
    """Fields of `SamplingConfig` as arguments of a call. None: the model's own; top_k 0 and top_p 1 keep all codes.

    A list holds one value per prompt, or one per image.
    """

    guidance_scale: float | Sequence[float] | None
    top_k: int | Sequence[int] | None
    top_p: float | Sequence[float] | None
    gumbel_smoothing: bool | Sequence[bool] | None
    maskgit_steps: int | None
    diffusion_steps: int | None
    discrete_only: bool | None
    unguided_scales: int | None
    greedy_scales: int | Sequence[int] | None


def finite_number(name: str, value: object) -> float:
    """Return `value`, a Python or numpy number, if it is finite. Errors call it `name`."""
    number = plain(value)
    if not isinstance(number, int | float) or isinstance(number, bool) or not abs(number) <= sys.float_info.max:
        raise HartError(f"{name} {shown(value)}: give a finite number")
    return float(number)


def checked_seed(seed: object, count: int = 1) -> int:
    """Return `seed` if it and the count - 1 seeds after it are valid for a generator."""
    if count > MAX_SEED + 1:
        raise HartError(f"{shown(count)} images: only {MAX_SEED + 1} seeds exist")
    return whole_number("seed", seed, 0, MAX_SEED - count + 1)


def checked_seeds(seeds: object, count: int) -> Sequence[int]:
    """Return one seed per image, given as a list or as the first of `count` consecutive ones; 0 if None is given."""
    listed = listed_values(seeds)
    if listed is None:
        first = checked_seed(0 if seeds is None else seeds, count)
        return range(first, first + count)
    if len(listed) != count:
        raise HartError(
            f"{counted(len(listed), 'seed')} for {counted(count, 'image')}: give the first, or one for each image"
        )
    return [checked_seed(seed) for seed in listed]


def sampled_seeds(given: object, count: int) -> list[int]:
    """Draw one seed per image from generators: one for each image, or one that serves all in turn."""
    generators = [given] if isinstance(given, torch.Generator) else given
    if not isinstance(generators, list | tuple) or not all(isinstance(one, torch.Generator) for one in generators):
        raise HartError(f"generator must be a torch.Generator or a list of them, not {shown(given)}")
    if len({id(one) for one in generators}) < len(generators):
        raise HartError("generator: one is in the list twice; give each image its own, or one for all")
    if len(generators) not in (1, count):
        found = counted(len(generators), "generator")
        raise HartError(f"{found} for {counted(count, 'image')}: give one for each image, or one for all")
    numbers = (torch.randint(MAX_SEED, (count // len(generators),), generator=g, device=g.device) for g in generators)
    return torch.cat([some.cpu() for some in numbers]).tolist()


def checked_prompts(prompts: object, num_classes: int | None) -> list[Prompt]:
    """Return a prompt, or an iterable of prompts, as a list. num_classes: for a class model; None for a text model."""
    listed = enumerate(_listed(prompts), start=1)
    return [checked_prompt(prompt, num_classes, called=f"prompt {place}") for place, prompt in listed]


def checked_negatives(prompts: object, num_classes: int | None) -> list[Prompt | None]:
    """Like `checked_prompts`, for negative prompts; None or an empty text is unconditional."""
    return [
        None if is_unconditional(one) else checked_prompt(one, num_classes, called=f"negative prompt {place}")
        for place, one in enumerate(_listed(prompts), start=1)
    ]


def is_unconditional(negative: object) -> bool:
    """Return whether a negative prompt is absent: None or an empty text."""
    return negative is None or (isinstance(negative, str) and negative == "")


def check_names(given: Mapping[str, Any]) -> None:
    """Raise `HartError` if a name is not a sampling setting."""
    if unknown := sorted(set(given) - set(SamplingOptions.__annotations__)):
        raise HartError(
            f"unknown argument {shown(unknown[0])}: settings are {', '.join(SamplingOptions.__annotations__)}"
        )


def checked_settings(
    config: HartConfig, base: SamplingConfig | None, given: Mapping[str, Any], schedule: ScaleSchedule
) -> SamplingConfig:
    """Return `base`, by default the model's own settings, updated with the `given` values that are not None.

    A small image may have fewer scales than the base declares greedy or unguided; then all of its scales are.
    Raises `HartError` if a setting is out of range or the model cannot sample this schedule with it.
    """
    base = config.sampling if base is None else base
    if not isinstance(base, SamplingConfig):
        raise HartError(f"sampling must be a SamplingConfig, not {shown(base)}")
    check_names(given)
    fitting = {name: min(getattr(base, name), len(schedule)) for name in ("unguided_scales", "greedy_scales")}
    changes = {name: plain(value) for name, value in given.items() if value is not None}
    settings = SamplingConfig.from_dict(base.to_dict() | fitting | changes, called=str)
    config.check_sampling(settings, schedule)
    return settings


def checked_embeds(name: str, value: object, config: HartConfig) -> Context:
    """Return `value` if it is a batch of text features or classes that the model takes."""
    text, classes = config.transformer.text, config.transformer.classes
    if classes is not None:
        known = classes.num_classes
        if not isinstance(value, ClassContext) or not isinstance(value.labels, Tensor) or value.num_classes != known:
            raise HartError(f"{name} must be a ClassContext of {counted(known, 'class')}, as encode_prompt returns it")
        of_rows = value.labels.dim() == 1 and len(value) > 0 and value.labels.dtype == torch.int64
        if not of_rows or not ((value.labels >= 0) & (value.labels <= known)).all():
            raise HartError(f"{name}: give a row of int64 labels from 0 to {known}, which stands for no class")
        return value
    assert text is not None
    if not isinstance(value, TextContext):
        raise HartError(f"{name} must be a TextContext, as encode_prompt returns it, not {type(value).__name__}")
    rows, shape = len(value), tuple(value.embeddings.shape)
    if rows == 0 or shape != (rows, text.tokens, text.width) or value.mask.shape != shape[:2]:
        wanted = f"(B, {text.tokens}, {text.width}) with a mask (B, {text.tokens})"
        raise HartError(f"{name} are {shape} with a mask {tuple(value.mask.shape)}: this model takes {wanted}")
    if value.mask.dtype != torch.bool or not value.mask.any(dim=1).all():
        raise HartError(f"{name}: the mask must be bool, with a real token in every row")
    if not _is_finite(value.embeddings):
        raise HartError(f"{name} must hold finite floating-point numbers")
    return value


def checked_latents(value: object, config: HartConfig) -> Tensor:
    """Return `value` in float32 if it is a batch of finite latents (B, D, h, w) with the model's channels."""
    channels = config.tokenizer.latent_channels
    if not isinstance(value, Tensor) or value.dim() != 4 or value.shape[1] != channels or value.numel() == 0:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise HartError(f"latents must be a tensor (B, {channels}, height, width), not {found}")
    if not _is_finite(value):
        raise HartError("latents must hold finite floating-point numbers")
    return value.float()


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def check_callbacks(**callbacks: object) -> None:
    """Raise `HartError` if one is neither callable nor None."""
    for name, value in callbacks.items():
        if value is not None and not callable(value):
            raise HartError(f"{name} must be a function or None, not {shown(value)}")


def check_output_type(value: object) -> None:
    """Raise `HartError` unless `value` is an `OutputType`."""
    if not isinstance(value, str) or value not in typing.get_args(OutputType):
        raise HartError(f"output_type {shown(value)}: choose {', '.join(typing.get_args(OutputType))}")


def _listed(prompts: object) -> list[object]:
    if isinstance(prompts, str) or as_index(prompts) is not None:
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | bytearray | Mapping) or _is_scalar(prompts):
        raise HartError(f"a prompt must be text, a class number, or a list of them, not {shown(prompts)}")
    if listed := list(prompts):
        return listed
    raise HartError("no prompts: give at least one")


def checked_prompt(prompt: object, num_classes: int | None, *, called: str) -> Prompt:
    """Check one prompt, which errors call `called`. num_classes: for a class model; None for a text model."""
    if num_classes is not None:
        spelt = isinstance(prompt, str) and prompt.isdecimal() and len(prompt) < 20
        number = as_index(int(prompt) if spelt else prompt)  # type: ignore[call-overload]
        if number is None or not 0 <= number < num_classes:
            raise HartError(f"this model generates classes by number: give 0 to {num_classes - 1}, not {shown(prompt)}")
        return number
    if not isinstance(prompt, str):
        raise HartError(f"this model generates from text: give text such as 'a red apple', not {shown(prompt)}")
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise HartError(f"{called} has {len(prompt)} characters: give at most {MAX_PROMPT_LENGTH}")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        # bytes of the command line that are invalid in the locale's encoding arrive as lone surrogates
        raise HartError(f"{called} is not valid Unicode text: give it in UTF-8, on a command line under LC_ALL=C.UTF-8")
    if "\0" in prompt:
        raise HartError(f"{called} holds a null byte, which is not text")
    if not prompt.strip():
        raise HartError(f"{called} is empty: give text such as 'a red apple'")
    return str(prompt)


def listed_values(value: object) -> list[Any] | None:
    """Return a list, tuple, range, array or tensor of values as a list; None for anything else."""
    listed = isinstance(value, list | tuple | range | np.ndarray | Tensor) and not _is_scalar(value)
    return list(value) if listed else None  # type: ignore[call-overload]


def plain(value: Any) -> Any:
    """Convert numpy or torch scalars to Python numbers; return other values as they are."""
    return value.item() if _is_scalar(value) else value


def _is_scalar(value: object) -> bool:
    return getattr(value, "shape", None) == () and hasattr(value, "item")
