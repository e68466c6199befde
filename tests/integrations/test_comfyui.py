"""ComfyUI's nodes. Where ComfyUI is not installed, what they use of it is stood in for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from hart import HartPipeline
from hart.errors import HartError

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class Interrupted(Exception):
    pass


class ComfyUI:
    """What a run shows to its user, and the stop button."""

    def __init__(self) -> None:
        self.previews: list[tuple[int, int, Image.Image]] = []
        self.stop_after = 1000

    def modules(self) -> dict[str, ModuleType]:
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int, preview: tuple[str, Image.Image, int]) -> None:
                comfy.previews.append((value, total, preview[1]))

        def throw_exception_if_processing_interrupted() -> None:
            if len(comfy.previews) >= comfy.stop_after:
                raise Interrupted

        package, management, utils = map(ModuleType, ("comfy", "comfy.model_management", "comfy.utils"))
        management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted  # type: ignore[attr-defined]
        management.get_torch_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
        utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
        package.model_management, package.utils = management, utils  # type: ignore[attr-defined]
        return {"comfy": package, "comfy.model_management": management, "comfy.utils": utils}


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> ComfyUI:
    comfy = ComfyUI()
    for name, module in comfy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return comfy


@pytest.fixture
def nodes(comfy: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The node classes, loaded from their folder as ComfyUI does."""
    spec = importlib.util.spec_from_file_location(
        "hart_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hart_nodes", module)
    sys.modules.pop("hart_nodes.nodes", None)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.NODE_CLASS_MAPPINGS
    return found


def defaults(node: Any) -> dict[str, Any]:
    """What the fields of a new node hold."""
    inputs = node.INPUT_TYPES()["required"]
    return {name: spec[1]["default"] for name, spec in inputs.items() if len(spec) > 1}


def run(node: Any, **inputs: Any) -> Any:
    (made,) = getattr(node(), node.FUNCTION)(**(defaults(node) | inputs))
    return made


def test_generation_gives_the_pipelines_images_and_a_preview_after_every_scale(
    nodes: dict[str, Any], comfy: ComfyUI, text_model: Path
) -> None:
    model = run(nodes["HartLoader"], model=str(text_model))
    images = run(nodes["HartGenerate"], model=model, prompt="a red apple", seed=3, batch_size=2)
    settings = {name: defaults(nodes["HartGenerate"])[name] for name in ("top_k", "top_p")}
    expected = HartPipeline.from_pretrained(text_model)(
        "a red apple", seed=3, num_images_per_prompt=2, output_type="pt", guidance_scale=2.5, **settings
    )
    assert images.dtype == torch.float32 and images.shape == (2, 8, 8, 3)
    torch.testing.assert_close(images.permute(0, 3, 1, 2), expected.images)
    scales = len(model.config.tokenizer.scales)
    assert [(value, total) for value, total, _ in comfy.previews] == [(k, 2 * scales) for k in range(1, 2 * scales + 1)]
    assert all(image.size == (8, 8) for _, _, image in comfy.previews)


def test_an_edit_redraws_under_the_mask_alone_for_every_image_of_a_batch(
    nodes: dict[str, Any], comfy: ComfyUI, text: HartPipeline
) -> None:
    sources = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    images = run(nodes["HartEdit"], model=text, image=sources, mask=mask, prompt="a blue heart", seed=3, batch_size=2)
    assert images.dtype == torch.float32 and images.shape == (4, 8, 8, 3)
    for made, source in zip(images, sources.repeat_interleave(2, dim=0), strict=True):
        torch.testing.assert_close(made[4:], source[4:])
        assert (made[:3] - source[:3]).abs().mean() > 0.1
    first, white = (Image.fromarray((255 * values).byte().numpy()) for values in (sources[0], mask[0]))
    fields = defaults(nodes["HartEdit"])
    settings = {name: fields[name] for name in ("top_k", "top_p") if name in fields}
    expected = text.edit(first, white, "a blue heart", seed=3, guidance_scale=fields["guidance"], **settings).images[0]
    assert images[0].mul(255).round().byte().numpy().tobytes() == expected.tobytes()
    steps = 4 * len(text.config.tokenizer.scales)
    assert [(value, total) for value, total, _ in comfy.previews] == [(k, steps) for k in range(1, steps + 1)]


def test_masks_are_one_or_as_many_as_images(nodes: dict[str, Any], text: HartPipeline) -> None:
    images = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 8, 8)
    for i, mask in enumerate(masks):
        mask[:, 2 * i :] = 1
    one, own = (run(nodes["HartEdit"], model=text, image=images, mask=given) for given in (masks[:1], masks))
    for i in range(3):
        single = run(nodes["HartEdit"], model=text, image=images[i : i + 1], mask=masks[i : i + 1])
        assert torch.equal(own[i : i + 1], single)
        assert torch.equal(one[i], own[i]) == (i == 0)
    with pytest.raises(HartError, match="not 2 for 3"):
        run(nodes["HartEdit"], model=text, image=images, mask=masks[:2])


def test_a_mask_of_another_size_is_stretched_and_an_empty_prompt_is_none(
    nodes: dict[str, Any], text: HartPipeline
) -> None:
    images = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    unpainted = run(nodes["HartEdit"], model=text, image=images, mask=torch.zeros(1, 64, 64))
    torch.testing.assert_close(unpainted, images)
    masks = torch.zeros(1, 8, 8), torch.zeros(1, 16, 32)
    for mask in masks:
        mask[:, : mask.shape[1] // 2] = 1
    own, stretched = (run(nodes["HartEdit"], model=text, image=images, mask=mask, prompt="") for mask in masks)
    assert torch.equal(own, stretched) and not torch.equal(own, images)
    assert torch.equal(run(nodes["HartEdit"], model=text, image=images, mask=masks[0][0], prompt=""), own)


def test_the_stop_button_ends_a_run_before_the_next_scale(
    nodes: dict[str, Any], comfy: ComfyUI, text_model: Path
) -> None:
    comfy.stop_after = 2
    with pytest.raises(Interrupted):
        run(nodes["HartGenerate"], model=run(nodes["HartLoader"], model=str(text_model)), prompt="a red apple")
    assert len(comfy.previews) == 2


def test_fields_start_at_the_shipped_models_own_settings(nodes: dict[str, Any], emoji: HartPipeline) -> None:
    assert defaults(nodes["HartLoader"]) == {"model": "emoji"}
    sampling = emoji.config.sampling
    fields = defaults(nodes["HartGenerate"])
    assert (fields["guidance"], fields["top_k"], fields["top_p"]) == (
        sampling.guidance_scale, sampling.top_k, sampling.top_p,
    )  # fmt: skip
