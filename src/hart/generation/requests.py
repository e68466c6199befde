"""Requests to a pipeline: single images, rows of a batch, and the images of a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from hart.config import MAX_SEED, HartConfig, SamplingConfig
from hart.devices import sent
from hart.errors import HartError
from hart.generation.arguments import (
    MAX_BATCH,
    Prompt,
    checked_embeds,
    checked_negatives,
    checked_prompt,
    checked_prompts,
    checked_seed,
    checked_seeds,
    checked_settings,
    finite_number,
    is_unconditional,
    listed_values,
    sampled_seeds,
)
from hart.generation.edits import MAX_STYLE, Edit, PromptMix, SecondPrompts
from hart.grids import ScaleSchedule
from hart.sizes import size_of_schedule
from hart.strict import counted, shown, whole_number
from hart.types import ClassContext, Context, Rows, TextContext

OWN_SETTINGS = ("guidance_scale", "top_k", "top_p", "gumbel_smoothing", "greedy_scales")
"""Fields of `SamplingConfig` that can differ between the images of a batch."""


@dataclass(frozen=True)
class ImageRequest:
    """One image. It comes out the same, up to rounding, whatever other images share its batch.

    prompt, negative_prompt: text, a class number, or one row of features; a negative prompt of None or "" is none.
    sampling: None for the pipeline's; images of a batch agree in `hart.generation.batch_settings.SHARED`.
    edit: what it keeps of another image, see `HartPipeline.prepare_edit`. mix: a second prompt; not allowed with an
        edit that has a source prompt.
    """

    prompt: Prompt | Context
    seed: int = 0
    sampling: SamplingConfig | None = None
    negative_prompt: Prompt | Context | None = None
    edit: Edit | None = None
    mix: PromptMix | None = None

    @property
    def second_prompt(self) -> Prompt | Context | None:
        """Return the edit's source prompt or the second prompt of the mix."""
        if self.mix is not None:
            return self.mix.prompt
        return None if self.edit is None else self.edit.source_prompt


def checked_images(config: HartConfig, images: object, schedule: ScaleSchedule) -> list[ImageRequest]:
    """Return the images of one batch, completed with the model's settings. Raises `HartError` for invalid values."""
    given: list[Any] = list(images) if isinstance(images, Iterable) else [images]
    if wrong := [one for one in given if not isinstance(one, ImageRequest)]:
        raise HartError(f"give a list of ImageRequest, not {shown(wrong[0])}")
    whole_number("number of images in a batch", len(given), 1, MAX_BATCH)
    return [_checked_image(config, one, schedule) for one in given]


def _checked_image(config: HartConfig, image: ImageRequest, schedule: ScaleSchedule) -> ImageRequest:
    sampling = checked_settings(config, image.sampling, {}, schedule)
    negative = None if is_unconditional(image.negative_prompt) else image.negative_prompt
    if negative is not None:
        negative = _checked_prompt(config, "negative_prompt", negative)
        _require_guidance([sampling])
    edit, mix = checked_changes(config, image.edit, image.mix, schedule)
    return replace(
        image,
        prompt=_checked_prompt(config, "prompt", image.prompt),
        seed=checked_seed(image.seed),
        sampling=sampling,
        negative_prompt=negative,
        edit=edit,
        mix=mix,
    )


def _checked_prompt(config: HartConfig, name: str, prompt: Prompt | Context) -> Prompt | Context:
    if not isinstance(prompt, TextContext | ClassContext):
        return checked_prompt(prompt, config.num_classes, called=name)
    if len(context := checked_embeds(name, prompt, config)) != 1:
        raise HartError(f"{name} has {len(context)} rows: an image takes one")
    return context


def checked_changes(
    config: HartConfig, edit: Edit | None, mix: PromptMix | None, schedule: ScaleSchedule
) -> tuple[Edit | None, PromptMix | None]:
    """Return the edit and the mix if they fit images of this schedule. Raises `HartError`."""
    scales = len(schedule)
    if edit is not None:
        if not isinstance(edit, Edit):
            raise HartError(f"edit must be an Edit, as prepare_edit returns it, not {shown(edit)}")
        if edit.size != str(size := size_of_schedule(config, schedule)):
            raise HartError(f"the edit has {edit.size} pixels, the images {size}: give size=edit.size")
        for name in ("kept_scales", "followed_scales"):
            whole_number(name, getattr(edit, name), 0, scales)
        if not 0 <= finite_number("style_strength", edit.style_strength) <= MAX_STYLE:
            raise HartError(f"style_strength {shown(edit.style_strength)}: give a number from 0 to {MAX_STYLE:g}")
        if edit.source_prompt is not None:
            edit = replace(edit, source_prompt=_checked_prompt(config, "source_prompt", edit.source_prompt))
    if mix is not None:
        if not isinstance(mix, PromptMix):
            raise HartError(f"mix must be a PromptMix, not {shown(mix)}")
        if edit is not None and edit.source_prompt is not None:
            raise HartError("an image has one second prompt: give either a mix or the source prompt of an edit")
        weights = tuple(finite_number("weight", weight) for weight in listed_values(mix.weights) or [])
        if len(weights) != scales or not all(0 <= weight <= 1 for weight in weights):
            raise HartError(f"weights {shown(mix.weights)}: give {scales} from 0 to 1, one for each scale")
        mix = PromptMix(_checked_prompt(config, "second prompt", mix.prompt), weights)
    return edit, mix


def contexts(
    images: Sequence[ImageRequest], encode: Callable[[Prompt], Context], device: torch.device
) -> tuple[Context, Context | None]:
    """Return the contexts of a batch, and those that guidance steers away from: None if all are the null context."""

    def of(prompt: Prompt | Context) -> Context:
        return context_of(prompt, encode, device)

    context = Rows.cat([of(image.prompt) for image in images])
    if all(image.negative_prompt is None for image in images):
        return context, None
    null = context.null()
    return context, Rows.cat(
        null.rows(slice(i, i + 1)) if image.negative_prompt is None else of(image.negative_prompt)
        for i, image in enumerate(images)
    )


def context_of(prompt: Prompt | Context, encode: Callable[[Prompt], Context], device: torch.device) -> Context:
    """Return the context of one prompt, or the features given in its place."""
    return (prompt if isinstance(prompt, TextContext | ClassContext) else encode(prompt)).to(device)


def null_context(config: HartConfig) -> Context:
    """Return one row without any prompt."""
    text, classes = config.transformer.text, config.transformer.classes
    if classes is not None:
        return ClassContext(torch.tensor([classes.num_classes], device="cpu"), classes.num_classes)
    assert text is not None
    features = torch.zeros(1, text.tokens, text.width, device="cpu")
    return TextContext(features, torch.ones(1, text.tokens, dtype=torch.bool, device="cpu")).null()


def second_prompts(
    images: Sequence[ImageRequest], encode: Callable[[Prompt], Context], device: torch.device
) -> SecondPrompts | None:
    """Return the second prompts of a batch; None if there are none."""
    if all(image.second_prompt is None for image in images):
        return None
    prompts = [image.prompt if image.second_prompt is None else image.second_prompt for image in images]
    weights = None
    if scales := max(0 if image.mix is None else len(image.mix.weights) for image in images):
        rows = [(0.0,) * scales if image.mix is None else image.mix.weights for image in images]
        weights = sent(torch.tensor(rows, dtype=torch.float32, device="cpu"), device)
    return SecondPrompts(Rows.cat([context_of(prompt, encode, device) for prompt in prompts]), weights)


@dataclass(frozen=True)
class Request:
    """The images of one call, with every value checked; image i belongs to prompt i // images_per_prompt.

    prompts: or one row of features each. negatives: one per prompt, or one for all; None is the null context.
        seeds: one per image. samplings: one per image, or one for all. edit, mix: for all images.
    """

    prompts: Sequence[Prompt | Context]
    negatives: Sequence[Prompt | Context | None]
    images_per_prompt: int
    seeds: Sequence[int]
    samplings: Sequence[SamplingConfig]
    edit: Edit | None
    mix: PromptMix | None

    def image(self, i: int) -> ImageRequest:
        row = i // self.images_per_prompt
        negative, sampling = self.negatives[row % len(self.negatives)], self.samplings[i % len(self.samplings)]
        return ImageRequest(self.prompts[row], self.seeds[i], sampling, negative, self.edit, self.mix)


def checked_request(
    config: HartConfig,
    prompt: object = None,
    *,
    embeds: object = None,
    negative_prompt: object = None,
    negative_embeds: object = None,
    images_per_prompt: object = 1,
    seed: object = None,
    generator: object = None,
    sampling: SamplingConfig | None = None,
    settings: Mapping[str, Any],
    schedule: ScaleSchedule,
    edit: Edit | None = None,
    mix: PromptMix | None = None,
) -> Request:
    """Return a `Request` from the arguments of `HartPipeline.__call__`. Raises `HartError` for invalid ones."""
    if prompt is None and embeds is None and edit is not None:
        embeds = null_context(config)
    if (prompt is None) == (embeds is None):
        raise HartError("give either a prompt or prompt_embeds, as encode_prompt returns it")
    if negative_prompt is not None and negative_embeds is not None:
        raise HartError("give either negative_prompt or negative_prompt_embeds")
    if generator is not None and seed is not None:
        raise HartError("give either a seed or a generator")
    prompts: Sequence[Prompt | Context]
    if prompt is None:
        prompts = _rows_of(checked_embeds("prompt_embeds", embeds, config))
    else:
        prompts = checked_prompts(prompt, config.num_classes)
    each = whole_number("num_images_per_prompt", images_per_prompt, 1, MAX_SEED)
    samplings = checked_samplings(config, sampling, settings, schedule, len(prompts), each)
    negatives: Sequence[Prompt | Context | None] = [None]
    if negative_embeds is not None:
        negatives = _rows_of(checked_embeds("negative_prompt_embeds", negative_embeds, config))
    elif negative_prompt is not None:
        negatives = checked_negatives(negative_prompt, config.num_classes)
    if any(negative is not None for negative in negatives):
        _require_guidance(samplings)
    if len(negatives) not in (1, len(prompts)):
        found = counted(len(negatives), "negative prompt")
        raise HartError(f"{found} for {counted(len(prompts), 'prompt')}: give one, or one for each")
    count = len(prompts) * each
    seeds = checked_seeds(seed, count) if generator is None else sampled_seeds(generator, count)
    edit, mix = checked_changes(config, edit, mix, schedule)
    return Request(prompts, negatives, each, seeds, samplings, edit, mix)


def _rows_of(context: Context) -> list[Context]:
    return [context.rows(slice(i, i + 1)) for i in range(len(context))]


def checked_samplings(
    config: HartConfig,
    base: SamplingConfig | None,
    settings: Mapping[str, Any],
    schedule: ScaleSchedule,
    prompts: int,
    each: int,
) -> list[SamplingConfig]:
    """Return `checked_settings` for each of prompts x each images, or one for all if no value is a list.

    settings: those in `OWN_SETTINGS` may be lists with one value per prompt or per image.
    """
    listed = {name: values for name in OWN_SETTINGS if (values := listed_values(settings.get(name))) is not None}
    if not listed:
        return [checked_settings(config, base, settings, schedule)]
    count = prompts * each
    for name, values in listed.items():
        if len(values) not in (prompts, count):
            raise HartError(
                f"{name}: {counted(len(values), 'value')} for {counted(prompts, 'prompt')}: give one, or one for each"
            )
        if not all(isinstance(value, Hashable) for value in values):
            raise HartError(f"{name} {shown(values)}: give one value, or a flat list of them")

    @cache
    def checked(*own: Any) -> SamplingConfig:
        return checked_settings(config, base, {**settings, **dict(zip(listed, own, strict=True))}, schedule)

    images = ((i, i // each) for i in range(count))
    return [checked(*(v[i if len(v) == count else prompt] for v in listed.values())) for i, prompt in images]


def _require_guidance(samplings: Sequence[SamplingConfig]) -> None:
    if all(sampling.guidance_scale == 0 for sampling in samplings):
        raise HartError("a negative prompt works through guidance: give a guidance_scale above 0")
