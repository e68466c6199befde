"""HART as a diffusers pipeline: loaded, moved, called and stored as users of diffusers expect.

    pipe = DiffusionPipeline.from_pretrained(
        "emoji-diffusers", custom_pipeline="integrations/diffusers", trust_remote_code=True
    )
    image = pipe("a red apple", generator=torch.Generator().manual_seed(0)).images[0]

`HartDiffusionPipeline(HartModel.from_pretrained("emoji")).save_pretrained("emoji-diffusers")` makes such a folder from
any model that hart opens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import ConfigMixin
from torch import nn

from hart.errors import HartError
from hart.generation.arguments import OutputType, check_callbacks, finite_number
from hart.generation.outputs import ScalePreview
from hart.pipeline import HartPipeline
from hart.text_encoder import RandomTextFeatures, encoder_module

OnStepEnd = Callable[["HartDiffusionPipeline", int, int, dict[str, Any]], dict[str, Any]]


class HartModel(ModelMixin, ConfigMixin):
    """A whole model as the only component of a `HartDiffusionPipeline`; `pipeline` is hart's own."""

    config_name = "config.json"  # type: ignore[assignment]

    def __init__(self, pipeline: HartPipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Self:
        """Open what `HartPipeline.from_pretrained` opens. dtype, or by its old name torch_dtype: of the transformer.
        device_map: a device, by default the CPU. diffusers' other loading options (memory maps, variants) have no
        meaning for these files."""
        dtype = options.get("dtype") or options.get("torch_dtype")
        return cls(HartPipeline.from_pretrained(name, device=options.get("device_map") or "cpu", dtype=dtype))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write what `HartPipeline.save_pretrained` writes."""
        self.pipeline.save_pretrained(os.fspath(save_directory))

    def to(self, *args: Any, **options: Any) -> Self:
        """Move as in torch: to a device, a type, or both."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **options)
        self.pipeline.to(device, dtype)
        return self

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        """`half` and `cuda` would change the module's own tensors, of which there are none, so nothing would happen."""
        raise HartError("a HART model is moved by to(): to(torch.float16), to('cuda')")

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield those of all parts, to be counted: a processor may sample with the same numbers in another order."""
        parts = self.pipeline.components.plain()
        modules: dict[str, nn.Module] = {"hart": parts.hart, "tokenizer": parts.tokenizer}
        encoder = None if self.pipeline.num_classes is not None else self.pipeline.text_encoder
        if encoder is not None and not isinstance(encoder, RandomTextFeatures):  # random features have none
            modules["text_encoder"] = encoder_module(encoder)
        for name, module in modules.items():
            yield from module.named_parameters(f"{prefix}{'.' * bool(prefix)}{name}", recurse, remove_duplicate)

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.dtype


class HartDiffusionPipeline(DiffusionPipeline):
    """Images from text by next-scale prediction, called like any pipeline of diffusers."""

    hart: HartModel

    def __init__(self, hart: HartModel) -> None:
        super().__init__()
        self.register_modules(hart=hart)  # type: ignore[attr-defined]

    def _not_in_parts(self, *arguments: Any, **options: Any) -> None:
        """diffusers' hooks move a module's tensors, or a module whose `forward` is called: this one would silently stay
        on the CPU."""
        raise HartError("a HART model is moved whole: to('cuda')")

    enable_model_cpu_offload = enable_sequential_cpu_offload = _not_in_parts

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = ("latents",),
        **settings: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Arguments as everywhere in diffusers; a step is a scale.

        guidance_scale: in diffusers' convention, 1 turns it off; by default the model's own. generator: by default
            torch's own, which `torch.manual_seed` seeds. callback_on_step_end: gets the latents so far (B, D, h, w)
            under "latents" after every scale, unless callback_on_step_end_tensor_inputs is empty; its result is
            ignored. settings: those of `HartPipeline` for which diffusers has no name, such as top_k, or a seed in
            place of a generator.
        """
        if "num_inference_steps" in settings:
            raise HartError("num_inference_steps: the scales of the model are the steps: leave it out")
        if guidance_scale is not None:
            # checked here, in diffusers' convention
            if finite_number("guidance_scale", guidance_scale) < 1:
                raise HartError(f"guidance_scale {guidance_scale:g}: 1 turns guidance off: give 1 or more")
            if guidance_scale == 1 and negative_prompt is not None:
                raise HartError("a negative prompt works through guidance: give a guidance_scale above 1")
            settings["guidance_scale"] = guidance_scale - 1
        if generator is None and settings.get("seed") is None:
            generator = torch.default_generator

        wanted = callback_on_step_end_tensor_inputs or ()

        def on_scale(preview: ScalePreview) -> bool:
            if callback_on_step_end is not None:
                tensors = dict.fromkeys(wanted, preview.latent)
                callback_on_step_end(self, preview.k, preview.k, tensors)
            return not self._interrupt

        check_callbacks(callback_on_step_end=callback_on_step_end)
        if others := ", ".join(name for name in wanted if name != "latents"):
            raise HartError(f"callback_on_step_end_tensor_inputs: there are no {others}: give only latents")
        self._interrupt = False  # a callback sets it to stop, as in other pipelines
        images = self.hart.pipeline(
            prompt,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            output_type=output_type,
            callback_on_scale=on_scale,
            **settings,
        ).images
        return ImagePipelineOutput(images=images) if return_dict else (images,)
