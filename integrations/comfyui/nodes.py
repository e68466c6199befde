"""Nodes that load a HART model, generate with a preview after every scale, and edit.

ComfyUI's images are (B, H, W, 3) float32 in [0, 1], its masks (B, H, W), 1 where something is to be generated.
"""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from hart import HartPipeline, ScalePreview
from hart.errors import HartError

CATEGORY = "HART"
MAX_SEED = 2**53 - 1  # what the browser's numbers hold
PREVIEW_SIZE = 512

PROMPTS = {
    "prompt": ("STRING", {"multiline": True, "default": "a red apple", "tooltip": "of the whole image"}),
    "negative_prompt": ("STRING", {"multiline": True, "default": ""}),
}
SAMPLING = {
    "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True}),
    "batch_size": ("INT", {"default": 1, "min": 1, "max": 64}),
    "guidance": ("FLOAT", {"default": 2.5, "min": 0.0, "max": 20.0, "step": 0.1}),
    "top_k": ("INT", {"default": 600, "min": 0, "max": 65536, "tooltip": "0 keeps all codes"}),
    "top_p": ("FLOAT", {"default": 0.7, "min": 0.05, "max": 1.0, "step": 0.05}),
}


def _options(
    seed: int, batch_size: int, guidance: float, top_k: int, top_p: float, call: int = 0, calls: int = 1
) -> dict[str, Any]:
    """Arguments of one of a node's `calls` of a pipeline; with every scale a preview, a step of the bar, and a look at
    whether the user pressed stop."""
    bar = comfy.utils.ProgressBar(calls)

    def on_scale(preview: ScalePreview) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        done = (call * preview.batches + preview.batch) * preview.scales + preview.k + 1
        total = calls * preview.batches * preview.scales
        bar.update_absolute(done, total, ("JPEG", preview.images()[0], PREVIEW_SIZE))

    return {
        "seed": seed,
        "num_images_per_prompt": batch_size,
        "guidance_scale": guidance,
        "top_k": top_k,
        "top_p": top_p,
        "output_type": "np",
        "callback_on_scale": on_scale,
    }


class HartLoader:
    """A shipped model by name, a folder, or a Hugging Face id."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("HART_MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("STRING", {"default": "emoji"})}}

    def load(self, model: str) -> tuple[HartPipeline]:
        return (HartPipeline.from_pretrained(model, device=comfy.model_management.get_torch_device()),)


class ImageNode:
    """Gives images that a model generates. INPUTS: besides the model and the settings of sampling."""

    CATEGORY = CATEGORY
    FUNCTION = "generate"
    RETURN_TYPES = ("IMAGE",)
    INPUTS: ClassVar[dict[str, Any]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("HART_MODEL",), **cls.INPUTS, **SAMPLING}}


SIDE = ("INT", {"default": 0, "min": 0, "max": 4096, "step": 16, "tooltip": "0: the model's own"})


class HartGenerate(ImageNode):
    """Images from text."""

    INPUTS = PROMPTS | {"width": SIDE, "height": SIDE}

    def generate(
        self, model: HartPipeline, prompt: str, negative_prompt: str, width: int, height: int, **sampling: Any
    ) -> tuple[torch.Tensor]:
        made = model(
            prompt,
            negative_prompt=negative_prompt or None,
            width=width or None,
            height=height or None,
            **_options(**sampling),
        )
        return (torch.from_numpy(made.images),)


class HartEdit(ImageNode):
    """Images redrawn under a mask; what the mask does not cover stays to the pixel."""

    INPUTS = {
        "image": ("IMAGE",),
        "mask": ("MASK",),
        **PROMPTS,
        "kept_scales": (
            "INT",
            {"default": 0, "min": 0, "max": 64, "tooltip": "first scales that are the image's everywhere"},
        ),
    }

    def generate(
        self,
        model: HartPipeline,
        image: torch.Tensor,
        mask: torch.Tensor,
        prompt: str,
        negative_prompt: str,
        kept_scales: int,
        **sampling: Any,
    ) -> tuple[torch.Tensor]:
        """Every image of a batch, each with its own mask or all with the one that there is. Raises `HartError`.

        Without a prompt whatever fits is generated. Masks of another size are stretched, as everywhere in ComfyUI,
        which gives an image without a mask an empty one of 64 pixels.
        """
        mask = mask.reshape(-1, 1, *mask.shape[-2:])  # some nodes give a single one without its dimension of the batch
        if len(mask) not in (1, len(image)):
            raise HartError(f"give one mask, or one for each image: not {len(mask)} for {len(image)}")
        mask = interpolate(mask, image.shape[1:3], mode="nearest-exact").squeeze(1)
        made = []
        for i, (source, covered) in enumerate(zip(image, mask.expand(len(image), -1, -1), strict=True)):
            edit = model.prepare_edit(_pil(source), _pil(covered), kept_scales=kept_scales)
            options = _options(**sampling, call=i, calls=len(image)) | {"output_type": "pil"}
            output = model(
                prompt or None, negative_prompt=negative_prompt or None, edit=edit, size=edit.size, **options
            )
            made += [torch.from_numpy(np.asarray(one, np.float32) / 255) for one in output.images]
        return (torch.stack(made),)


def _pil(values: torch.Tensor) -> Image.Image:
    """An image (H, W, 3) or a mask (H, W)."""
    return Image.fromarray((255 * values.cpu().clamp(0, 1)).round().byte().numpy())


NODE_CLASS_MAPPINGS = {"HartLoader": HartLoader, "HartGenerate": HartGenerate, "HartEdit": HartEdit}
NODE_DISPLAY_NAME_MAPPINGS = {
    "HartLoader": "HART: load a model",
    "HartGenerate": "HART: generate",
    "HartEdit": "HART: edit under a mask",
}
