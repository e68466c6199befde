"""From text to images: the only file that knows all stages.

    prompt -> encode_prompt -> context -> generate (next-scale prediction) -> latents -> decode -> images

The random numbers of every image depend only on its own seed, so other images of its batch affect only its rounding:
matrix products of other shapes differ in their last digits, and sampling can amplify that. On a CPU, images are
therefore generated one at a time, and image i of a call is bit for bit the one generated alone with its seed.

Shapes: B images, H W pixels, D latent channels, h w latent.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Unpack

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from hart.config import HartConfig, SamplingConfig
from hart.errors import PromptWarning
from hart.generation.arguments import (
    MAX_BATCH,
    OutputType,
    Prompt,
    SamplingOptions,
    check_callbacks,
    check_names,
    check_output_type,
    checked_latents,
    checked_prompts,
    checked_settings,
    plain,
)
from hart.generation.canvas import require_image
from hart.generation.edits import Edit, PromptMix, batch_edits
from hart.generation.next_scale import NextScaleGenerator, States
from hart.generation.noise import SeededNoise
from hart.generation.outputs import HartOutput, Reconstruction, ScalePreview
from hart.generation.requests import ImageRequest, Request, checked_images, checked_request, contexts, second_prompts
from hart.grids import ScaleSchedule
from hart.inference.components import Components, of_type
from hart.inference.editing import Editing
from hart.inference.memory import require_memory
from hart.layers.linear import own_types
from hart.sizes import SizeOptions, requested_schedule
from hart.strict import whole_number
from hart.types import ClassContext, Context, Rows

GPU_BATCH = 4

OnScale = Callable[[ScalePreview], object]


class HartPipeline(Editing):
    """A whole model on one device. Call it with prompts, or use its stages: `encode_prompt`, `generate`, `decode`."""

    @torch.inference_mode()
    @own_types()
    def __call__(
        self,
        prompt: Prompt | Iterable[Prompt] | None = None,
        *,
        negative_prompt: Prompt | Iterable[Prompt | None] | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Context | None = None,
        negative_prompt_embeds: Context | None = None,
        output_type: OutputType = "pil",
        sampling: SamplingConfig | None = None,
        size: int | str | None = None,
        height: int | None = None,
        width: int | None = None,
        aspect: str | None = None,
        edit: Edit | None = None,
        mix: PromptMix | None = None,
        batch_size: int | None = None,
        callback_on_scale: OnScale | None = None,
        callback_on_batch: Callable[[HartOutput], object] | None = None,
        collect: bool = True,
        **settings: Unpack[SamplingOptions],
    ) -> HartOutput:
        """Generate `num_images_per_prompt` images of every prompt.

        prompt: text for a text model, class numbers for a class model; with an edit, None generates whatever fits.
        negative_prompt: what guidance steers away from, one for all prompts or one for each; its features replace the
            unconditional ones. "" or None is unconditional.
        seed: image i gets the seed `seed + i`, by default starting at 0; or a list with one seed per image.
        generator: draws the seeds, in place of `seed`: one for each image, or one for all images in turn.
        prompt_embeds, negative_prompt_embeds: the result of `encode_prompt`, in place of prompts.
        output_type: see `hart.generation.arguments.OutputType`.
        sampling: settings in place of the model's own and of those that its speed changes.
        settings: single settings, which override `sampling`: guidance_scale, top_k, top_p, gumbel_smoothing,
            greedy_scales, maskgit_steps, diffusion_steps, discrete_only, unguided_scales; see `SamplingConfig`.
            guidance_scale is defined as in the HART paper: diffusers' minus 1. The first five may be lists with one
            value per prompt or image.
        size: image size in pixels: 256 for a square, "1024x576" for width and height. height, width: the same as
            numbers. aspect: a shape such as "16:9", with as many tokens as the square. By default the size that the
            model was trained at; see `hart.sizes.requested_schedule`.
        edit: what all images keep of another image, see `prepare_edit`; latents do not include the pixels it puts back.
            mix: a second prompt for all images. `edit`, `vary` and `mix` call this with these arguments.
        batch_size: images generated together; by default `default_batch`.
        callback_on_scale: called after every scale of every batch. If it returns False, the call ends with the images
            of this batch as they are.
        callback_on_batch: called with every batch as soon as it is done.
        collect: if False, no images are returned, so that they take no memory after `callback_on_batch`.
        Raises `HartError` for input that the model cannot take. A prompt with words that the text encoder drops or does
        not know is used all the same, with a `PromptWarning`.
        """
        schedule = requested_schedule(self.config, size=size, height=height, width=width, aspect=aspect)
        check_output_type(output_type)
        check_callbacks(callback_on_scale=callback_on_scale, callback_on_batch=callback_on_batch)
        components = self._components  # for the whole call, even if others are loaded meanwhile
        request = checked_request(
            self._config_of(components),
            prompt,
            embeds=prompt_embeds,
            negative_prompt=negative_prompt,
            negative_embeds=negative_prompt_embeds,
            images_per_prompt=num_images_per_prompt,
            seed=seed,
            generator=generator,
            sampling=sampling,
            settings=settings,
            schedule=schedule,
            edit=edit,
            mix=mix,
        )
        batch_size = _checked_batch(batch_size, components)
        batches = []
        for images, latents in self._sampled(request, components, schedule, batch_size, callback_on_scale):
            if edit is None or output_type == "latent":
                generated = components.images(latents, output_type)
            else:
                generated = of_type([edit.finished(image) for image in components.images(latents)], output_type)
            batch = HartOutput(
                generated,
                [image.prompt for image in images if not isinstance(image.prompt, Context)],
                [image.seed for image in images],
                [image.sampling for image in images if image.sampling is not None],
                batch_size,
            )
            if callback_on_batch is not None:
                callback_on_batch(batch)
            if collect:
                batches.append(batch)
        return HartOutput.cat(batches, batch_size)

    def require_memory(
        self,
        schedule: ScaleSchedule,
        images: int,
        *,
        batch_size: int | None = None,
        second_prompt: bool = False,
        sampling: SamplingConfig | None = None,
        **settings: Unpack[SamplingOptions],
    ) -> None:
        """Raise `HartError` if a call for this many images of this schedule needs more memory than there is.

        second_prompt: whether the images have one, from a mix or an edit's source. Other arguments are as in a call,
        which does not check this, with one value for all images.
        """
        parts = self._components
        sampling = checked_settings(self._config_of(parts), sampling, settings, schedule)
        branches = 1 + (sampling.guidance_scale > 0) + second_prompt
        images = min(images, _checked_batch(batch_size, parts))
        require_memory(self.config.replace(sampling=sampling), parts, schedule, images, branches)

    @torch.inference_mode(False)
    def encode_prompt(self, prompt: Prompt | Iterable[Prompt]) -> Context:
        """Encode prompts, one row each: a `TextContext`, or the `ClassContext` of a class model.

        Each prompt is encoded separately, so that the others do not affect it.
        """
        # copies, as ordinary tensors that may be changed, in inference mode too
        return Rows.cat(self._encoded(one) for one in checked_prompts(prompt, self.num_classes))

    def generate(
        self,
        prompt_embeds: Context,
        *,
        negative_prompt_embeds: Context | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        sampling: SamplingConfig | None = None,
        size: int | str | None = None,
        height: int | None = None,
        width: int | None = None,
        aspect: str | None = None,
        callback_on_scale: OnScale | None = None,
        **settings: Unpack[SamplingOptions],
    ) -> Tensor:
        """Generate latents (B, D, h, w) float32 in one batch, one for each row of `prompt_embeds`; see `__call__`."""
        check_names(settings)  # rejects arguments that only a call takes
        where: SizeOptions = {"size": size, "height": height, "width": width, "aspect": aspect}
        latents: Tensor = self(
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            seed=seed,
            generator=generator,
            output_type="latent",
            sampling=sampling,
            batch_size=max(1, len(prompt_embeds)) if isinstance(prompt_embeds, Context) else 1,
            callback_on_scale=callback_on_scale,
            **where,
            **settings,
        ).images
        return latents

    @torch.inference_mode()
    @own_types()
    def generate_rows(self, images: Sequence[ImageRequest], **size: Unpack[SizeOptions]) -> States:
        """Generate one batch, for servers: yields the state of all its images after every scale; the last holds the
        latents.

        images: may belong to different users, each with its own prompt, seed and settings; those in
            `hart.generation.batch_settings.SHARED` must agree. `decode` turns a state's latent into images. To stop the
            generation and free its memory, stop iterating. `send([0, 2])` in place of `next` continues with only the
            first and third image of the last state; the others are dropped from it and from later states.
        size, height, width, aspect: for all images, as in `__call__`.
        Raises `HartError` at once for input that the model cannot take.
        """
        schedule = requested_schedule(self.config, **size)
        parts = self._components
        checked = checked_images(self._config_of(parts), images, schedule)
        return _states(checked, parts, self._encoded, lru_cache(4 * len(checked))(parts.encode), schedule)

    @torch.inference_mode()
    @own_types()
    def decode(self, latents: Tensor, output_type: OutputType = "pil") -> Any:
        """Decode latents (B, D, h, w) to images; see `hart.generation.arguments.OutputType`."""
        check_output_type(output_type)
        return self._components.images(checked_latents(latents, self.config), output_type)

    @torch.inference_mode()
    @own_types()
    def reconstruct(self, image: Image.Image) -> Reconstruction:
        """Encode and decode an image with the tokenizer only, after cropping it to a square and resizing."""
        return self._components.reconstruct(require_image("image", image))

    def _config_of(self, parts: Components) -> HartConfig:
        """Return the model's configuration, with the settings that calls have at these components' speed."""
        return self.config.replace(sampling=parts.speed.sampling(self.config))

    def _sampled(
        self, request: Request, parts: Components, schedule: ScaleSchedule, batch_size: int, on_scale: OnScale | None
    ) -> Iterator[tuple[list[ImageRequest], Tensor]]:
        """Yield the images of every batch, and their latents."""
        # images of the same prompt or edit are consecutive
        encode, latent_of = lru_cache(2 * batch_size)(self._encoded), lru_cache(8 * batch_size)(parts.encode)
        count, scales = len(request.seeds), len(schedule)
        batches = -(-count // batch_size)
        with tqdm(total=batches * scales, **self._progress_bar) as bar:
            for batch in range(batches):
                numbers = range(batch * batch_size, min((batch + 1) * batch_size, count))
                images, stopped = [request.image(i) for i in numbers], False
                for state in _states(images, parts, encode, latent_of, schedule):
                    bar.update()
                    if on_scale is not None:
                        with torch.inference_mode(False):
                            latent = state.latent.clone()
                        preview = ScalePreview(state.k, scales, batch, batches, numbers, latent, parts.images)
                        if stopped := plain(on_scale(preview)) is False:
                            break
                latents = state.latent
                del state  # its logits take as much memory as decoding
                yield images, latents
                if stopped:
                    return

    @torch.inference_mode()
    @own_types()
    def _encoded(self, prompt: Prompt) -> Context:
        if isinstance(prompt, str):
            with self._working_text_encoder() as encoder:
                adapted = self._components.without_lora is not None
                for remark in encoder.reading([prompt])[0].remarks(prompt, adapted=adapted):
                    _warn(remark)
                return encoder.encode([prompt])
        assert self.num_classes is not None
        return ClassContext(torch.tensor([prompt], device="cpu"), self.num_classes)


def _states(
    images: Sequence[ImageRequest],
    parts: Components,
    encode: Callable[[Prompt], Context],
    latent_of: Callable[..., Tensor],
    schedule: ScaleSchedule,
) -> States:
    """Return the states of a batch of checked requests.

    latent_of: `Coder.encode`; it is called for an edit's source and style, and for each downscaled, scale by scale.
    """
    noise = SeededNoise([image.seed for image in images], parts.device)
    settings = [image.sampling for image in images if image.sampling is not None]
    quantizer, smaller = parts.tokenizer.quantizer, parts.tokenizer.smaller(schedule)
    edits = batch_edits([image.edit for image in images], latent_of, quantizer, schedule, smaller)
    second = second_prompts(images, encode, parts.device)
    generator = NextScaleGenerator(parts.hart, quantizer, settings, noise, schedule, edits)
    return generator.states(*contexts(images, encode, parts.device), second)


def default_batch(kind: str) -> int:
    """Return how many images are generated together on this kind of device, e.g. "cuda", by default."""
    return 1 if kind == "cpu" else GPU_BATCH


def _checked_batch(size: int | None, parts: Components) -> int:
    return whole_number("batch_size", default_batch(parts.device.type) if size is None else size, 1, MAX_BATCH)


def _warn(message: str) -> None:
    """Issue a `PromptWarning` that points at the line outside hart that called it."""
    level, frame, passed = 1, sys._getframe(), ("hart", "torch", "contextlib")
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in passed:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, PromptWarning, stacklevel=level)
