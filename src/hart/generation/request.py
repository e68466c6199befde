"""What callers ask a pipeline for: values of any usual type become plain ones, all others a `HartError` of one line."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from hart.config import MAX_SEED, HartConfig, SamplingConfig
from hart.errors import HartError
from hart.strict import shown

MAX_PROMPTS, MAX_PROMPT_LENGTH, MAX_SIZE = 10**7, 10**5, 2**20

Prompt = str | int
"""Words for a text model, a class number for a class model."""


def whole_number(name: str, value: object, least: int, most: int) -> int:
    """`value`, of Python or numpy, if it is a whole number from `least` to `most`. `name` is what errors call it."""
    number = _index(value)
    if number is None or not least <= number <= most:
        raise HartError(f"{name} {shown(value)}: give a whole number, at least {least} and at most {most}")
    return number


def finite_number(name: str, value: object) -> float:
    """`value`, of Python or numpy, if it is a finite number. `name` is what errors call it."""
    number = _plain(value)
    if not isinstance(number, int | float) or isinstance(number, bool) or not abs(number) <= sys.float_info.max:
        raise HartError(f"{name} {shown(value)}: give a finite number")
    return float(number)


def checked_seed(seed: object, count: int = 1) -> int:
    """`seed`, if it and the count - 1 seeds after it are ones that a generator takes."""
    if count > MAX_SEED + 1:
        raise HartError(f"{shown(count)} pictures: there are seeds for {MAX_SEED + 1}")
    return whole_number("seed", seed, 0, MAX_SEED - count + 1)


def checked_prompts(prompts: object, num_classes: int | None) -> list[Prompt]:
    """A prompt or an iterable of them as a list. num_classes: of a class model; None for one that takes words."""
    return [_checked_prompt(prompt, place, num_classes) for place, prompt in enumerate(_listed(prompts), start=1)]


def check_size(size: object, config: HartConfig) -> None:
    """Raise `HartError` unless `size` is the side of the pictures that a model draws, in pixels, or None."""
    side = config.tokenizer.image_size
    if size is not None and whole_number("size", size, 1, MAX_SIZE) != side:
        scales = ", ".join(map(str, config.tokenizer.scales))
        raise HartError(f"size {size}: this model has no scale schedule for it; it draws {side} px (scales {scales})")


def checked_settings(config: HartConfig, base: SamplingConfig | None, given: Mapping[str, Any]) -> SamplingConfig:
    """`base`, by default the model's own settings, changed by what is `given` and not None; top_k 0 keeps all codes.

    Raises `HartError` for settings out of range, or that the model cannot draw with.
    """
    base = config.sampling if base is None else base
    if not isinstance(base, SamplingConfig):
        raise HartError(f"sampling must be a SamplingConfig, not {shown(base)}")
    changes = {name: _plain(value) for name, value in given.items() if value is not None}
    if _index(changes.get("top_k")) == 0:
        changes["top_k"] = None
    settings = SamplingConfig.from_dict(base.to_dict() | changes)
    tokens = config.transformer.schedule.token_counts[-1]
    if settings.rounds > 1 and not config.hybrid:
        raise HartError("rounds: this model has no residual diffusion and draws its last scale in 1 round")
    if settings.rounds > tokens:
        raise HartError(f"rounds: {settings.rounds} are more than the {tokens} tokens of the last scale")
    steps, diffusion = settings.diffusion_steps, config.diffusion
    if steps is not None and diffusion is None:
        raise HartError("diffusion_steps: this model has no residual diffusion")
    if steps is not None and diffusion is not None and steps > diffusion.training_steps:
        raise HartError(f"diffusion_steps: {steps} are more than the {diffusion.training_steps} of training")
    return settings


def _listed(prompts: object) -> list[object]:
    if isinstance(prompts, str) or _index(prompts) is not None:
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | bytearray | Mapping) or _is_scalar(prompts):
        raise HartError(f"prompts must be words, a class number, or a list of them, not {shown(prompts)}")
    listed = list(islice(prompts, MAX_PROMPTS + 1))
    if not listed:
        raise HartError("no prompts: give at least one")
    if len(listed) > MAX_PROMPTS:
        raise HartError(f"more than {MAX_PROMPTS} prompts: give fewer in a call")
    return listed


def _checked_prompt(prompt: object, place: int, num_classes: int | None) -> Prompt:
    if num_classes is not None:
        number = _index(prompt)
        if number is None or not 0 <= number < num_classes:
            raise HartError(f"this model draws classes by number: give 0 to {num_classes - 1}, not {shown(prompt)}")
        return number
    if not isinstance(prompt, str):
        raise HartError(f"this model draws from words: give text such as 'a red apple', not {shown(prompt)}")
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise HartError(f"prompt {place} has {len(prompt)} characters: give at most {MAX_PROMPT_LENGTH}")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        # the command line hands bytes that are no UTF-8 on as halves of surrogate pairs
        raise HartError(f"prompt {place} is no valid Unicode text: give it in UTF-8")
    if not prompt.strip():
        raise HartError(f"prompt {place} is empty: describe what to draw")
    return str(prompt)


def _index(value: object) -> int | None:
    """A whole number of Python or numpy as Python's; None for all else, also for true and false."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    """Single numbers of numpy as Python's, other values as they are."""
    return value.item() if _is_scalar(value) else value


def _is_scalar(value: object) -> bool:
    return getattr(value, "shape", None) == () and hasattr(value, "item")
