"""The diffusers pipeline, with the real package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hart import HartError, HartPipeline
from helpers import CHANNELS

PIPELINE = Path(__file__).parents[2] / "integrations" / "diffusers"


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, stored and opened as users of diffusers do."""
    diffusers = pytest.importorskip("diffusers")
    from hart.integrations.diffusers import HartDiffusionPipeline, HartModel

    folder = tmp_path_factory.mktemp("diffusers") / "model"
    HartDiffusionPipeline(HartModel.from_pretrained(text_model)).save_pretrained(folder)
    return diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(PIPELINE), trust_remote_code=True)


def test_images_are_those_of_hart(pipe: Any, text_model: Path) -> None:
    made = pipe("a red apple", guidance_scale=4.0, generator=seeded(), num_images_per_prompt=2, output_type="np")
    expected = HartPipeline.from_pretrained(text_model)(
        "a red apple", guidance_scale=3.0, generator=seeded(), num_images_per_prompt=2, output_type="np"
    )
    assert (made.images == expected.images).all()
    assert pipe("a red apple", generator=seeded(), return_dict=False)[0][0].size == (8, 8)


def test_guidance_is_explained_in_the_numbers_of_diffusers(pipe: Any) -> None:
    with pytest.raises(HartError, match=r"guidance_scale 0\.5: 1 turns guidance off"):
        pipe("a red apple", guidance_scale=0.5)
    with pytest.raises(HartError, match="give a guidance_scale above 1"):
        pipe("a red apple", negative_prompt="a stalk", guidance_scale=1)
    with pytest.raises(HartError, match="guidance_scale 'much': give a finite number"):
        pipe("a red apple", guidance_scale="much")


def test_a_number_of_steps_is_refused(pipe: Any) -> None:
    with pytest.raises(HartError, match="num_inference_steps: the scales of the model are the steps: leave it out"):
        pipe("a red apple", num_inference_steps=20)


def test_a_seed_takes_the_place_of_a_generator(pipe: Any) -> None:
    expected = pipe.hart.pipeline("a red apple", seed=3, output_type="np")
    assert (pipe("a red apple", seed=3, output_type="np").images == expected.images).all()
    with pytest.raises(HartError, match="either a seed or a generator"):
        pipe("a red apple", seed=3, generator=seeded())


def test_a_callback_sees_every_scale_and_interrupts(pipe: Any) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def on_step_end(pipeline: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, tuple(tensors["latents"].shape)))
        pipeline._interrupt = step == 2
        return tensors

    pipe("a red apple", generator=seeded(), callback_on_step_end=on_step_end)
    assert seen == [(step, (1, CHANNELS, 4, 4)) for step in range(3)]
    asked = {"generator": seeded(), "callback_on_step_end": on_step_end}
    pipe("a red apple", **asked, callback_on_step_end_tensor_inputs=["latents"])  # as in diffusers' guide
    assert seen[:3] == seen[3:]
    with pytest.raises(HartError, match="there are no prompt_embeds: give only latents"):
        pipe("a red apple", **asked, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    with pytest.raises(HartError, match="callback_on_step_end must be a function or None, not 3"):
        pipe("a red apple", callback_on_step_end=3)


def test_type_and_device_move_the_model(pipe: Any) -> None:
    assert (pipe.dtype, pipe.device) == (torch.float32, torch.device("cpu"))
    pipe.to(torch.bfloat16)
    assert pipe.hart.pipeline.dtype == torch.bfloat16
    pipe.to("cpu", torch.float32)
    assert pipe.dtype == torch.float32
    with pytest.raises(HartError, match=r"moved by to\(\): to\(torch\.float16\)"):
        pipe.hart.half()
    for offload in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(HartError, match=r"moved whole: to\('cuda'\)"):  # it would have stayed on the CPU
            offload(device="cuda")


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_model_opens_in_the_type_that_is_asked_for(text_model: Path, name: str) -> None:
    pytest.importorskip("diffusers")
    from hart.integrations.diffusers import HartModel

    opened = HartModel.from_pretrained(text_model, **{name: torch.bfloat16}, device_map="cpu")
    assert (opened.dtype, opened.device) == (torch.bfloat16, torch.device("cpu"))
    parts = opened.pipeline.hart, opened.pipeline.tokenizer, opened.pipeline.text_encoder
    assert opened.num_parameters() == sum(p.numel() for part in parts for p in part.parameters())
    with pytest.raises(HartError, match="nowhere"):
        HartModel.from_pretrained(text_model, device_map="nowhere")


def test_without_a_generator_every_image_is_new_as_torch_is_seeded(pipe: Any) -> None:
    torch.manual_seed(0)
    first, second = (pipe("a red apple", output_type="np").images for _ in range(2))
    assert (first != second).any()
    torch.manual_seed(0)
    assert (pipe("a red apple", output_type="np").images == first).all()
