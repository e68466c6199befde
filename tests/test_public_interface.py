"""What a diffusers user reaches for first: stages by themselves, negative prompts, features, generators, outputs."""

from __future__ import annotations

import inspect
import pickle
import threading
import typing
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import hart
from hart import HartError, HartPipeline, SamplingConfig
from hart.generation.arguments import OutputType, SamplingOptions
from hart.generation.outputs import ScalePreview
from hart.types import TextContext
from helpers import CHANNELS, SCALES, store_adapter, tiny_text_config


def image(pipe: HartPipeline, *arguments: Any, **options: Any) -> bytes:
    data: bytes = pipe(*arguments, **options).images[0].tobytes()
    return data


def test_methods_have_a_docstring_and_annotations() -> None:
    for name, member in inspect.getmembers(HartPipeline, inspect.isfunction):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        signature = inspect.signature(member)
        assert inspect.getdoc(member), name
        assert signature.return_annotation is not inspect.Signature.empty, name
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
        assert not untyped, name


def test_the_settings_of_a_call_are_those_of_the_configuration() -> None:
    assert list(SamplingOptions.__annotations__) == [field.name for field in fields(SamplingConfig)]


@pytest.mark.parametrize("kind", ["text", "classes"])
def test_a_call_is_made_of_its_stages(kind: str, request: pytest.FixtureRequest) -> None:
    pipe: HartPipeline = request.getfixturevalue(kind)
    prompts: list[Any] = ["a cat", "a dog"] if kind == "text" else [1, 2]
    embeds = pipe.encode_prompt(prompts)
    latents = pipe.generate(embeds, seed=4, guidance_scale=2)
    assert latents.shape == (2, CHANNELS, SCALES[-1], SCALES[-1])
    called = pipe(prompts, seed=4, guidance_scale=2, batch_size=2)
    assert [i.tobytes() for i in pipe.decode(latents)] == [i.tobytes() for i in called.images]
    again = pipe(prompt_embeds=embeds, seed=4, guidance_scale=2, batch_size=2)
    assert [i.tobytes() for i in again.images] == [i.tobytes() for i in called.images]
    assert (again.prompts, again.seeds) == ([], [4, 5])
    one = pipe(prompt_embeds=embeds, num_images_per_prompt=2)
    assert [i.tobytes() for i in one.images] == [i.tobytes() for i in pipe(prompts, num_images_per_prompt=2).images]


def test_outputs_come_as_pil_np_pt_and_latents(text: HartPipeline) -> None:
    def called(kind: OutputType) -> Any:
        return text(["a cat", "a dog"], num_images_per_prompt=2, output_type=kind).images

    pil, array, tensor, latents = (called(kind) for kind in typing.get_args(OutputType))
    size = text.image_size
    assert array.shape == (4, size, size, 3)
    assert tensor.shape == (4, 3, size, size)
    assert array.dtype == np.float32
    assert tensor.dtype == torch.float32
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert 0 <= array.min() <= array.max() <= 1
    assert np.array_equal(np.stack([np.asarray(one) for one in pil]), np.round(array * 255).astype(np.uint8))
    assert latents.shape == (4, CHANNELS, SCALES[-1], SCALES[-1])
    assert torch.equal(text.decode(latents, "pt"), tensor)


@pytest.mark.parametrize("kind", ["text", "classes"])
def test_a_negative_prompt_takes_the_unconditional_place(kind: str, request: pytest.FixtureRequest) -> None:
    pipe: HartPipeline = request.getfixturevalue(kind)
    first, second, other = ("a cat", "a dog", "b") if kind == "text" else (1, 2, 3)
    plain = image(pipe, first)
    led = image(pipe, first, negative_prompt=other)
    assert led != plain
    assert image(pipe, first, negative_prompt_embeds=pipe.encode_prompt(other)) == led
    assert image(pipe, first, negative_prompt=[None]) == plain
    if kind == "text":
        assert image(pipe, first, negative_prompt="") == plain
    # one for all prompts, or one for each, also in one batch with prompts that have none
    both = pipe([first, second], negative_prompt=other).images
    assert both[0].tobytes() == led
    mixed = pipe([first, second], negative_prompt=[None, other]).images
    assert [i.tobytes() for i in mixed] == [plain, both[1].tobytes()]
    together = pipe([first, second], negative_prompt=[None, other], batch_size=2, output_type="np").images
    alone = pipe([first, second], negative_prompt=[None, other], output_type="np").images
    assert np.abs(together - alone).mean() < 0.02


def test_generators_stand_in_place_of_seeds(text: HartPipeline) -> None:
    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    given = text(["a cat", "a dog"], generator=[generator(7), generator(8)])
    again = text(["a cat", "a dog"], seed=given.seeds)
    assert [i.tobytes() for i in given.images] == [i.tobytes() for i in again.images]
    assert text("a cat", generator=generator(8)).seeds == given.seeds[1:]
    shared = text("a cat", num_images_per_prompt=2, generator=generator(7)).seeds
    assert shared[0] == given.seeds[0] != shared[1]


def test_a_callback_may_stop_the_call(text: HartPipeline) -> None:
    seen: list[ScalePreview] = []

    def stop(preview: ScalePreview) -> bool:
        seen.append(preview)
        return preview.k < 1

    out = text(["a cat", "a dog"], callback_on_scale=stop)
    assert [preview.k for preview in seen] == [0, 1]
    assert len(out.images) == 1
    assert out.images[0].tobytes() == seen[-1].images()[0].tobytes()

    assert len(text(["a cat", "a dog"], callback_on_scale=lambda preview: np.bool_(False)).images) == 1

    def fail(preview: ScalePreview) -> None:
        raise KeyError(preview.k)

    with pytest.raises(KeyError):
        text("a cat", callback_on_scale=fail)


def test_tensors_that_come_out_may_be_changed(text: HartPipeline) -> None:
    before = image(text, "a cat")
    assert image(text, "a cat", callback_on_scale=lambda preview: preview.latent.zero_()) == before
    embeds = text.encode_prompt(["a cat", "a dog"])
    assert isinstance(embeds, TextContext)
    embeds.embeddings[0] += embeds.embeddings[1]
    latents = text.generate(embeds)
    latents[0] *= 0.5
    for tensor in (text.decode(latents, "pt"), *(text("a cat", output_type=kind).images for kind in ("pt", "latent"))):
        tensor.zero_()
    latents.requires_grad_().sum().backward()


def test_ranges_are_lists(text: HartPipeline) -> None:
    assert text(["a", "b"], seed=range(5, 7), guidance_scale=range(1, 3)).seeds == [5, 6]


def test_no_text_is_no_negative_prompt(text: HartPipeline) -> None:
    for negative in ("", ["", None]):
        assert image(text, ["a cat", "a dog"], negative_prompt=negative, guidance_scale=0)
    none = hart.ImageRequest("a cat", negative_prompt="")
    *_, last = text.generate_rows(one for one in [none])  # type: ignore[arg-type]
    assert text.decode(last.latent)[0].tobytes() == image(text, "a cat")


def test_a_progress_bar_is_shown_where_it_is_wanted(text: HartPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    text("a cat")
    assert capsys.readouterr() == ("", "")
    pipe = pickle.loads(pickle.dumps(text))
    pipe.set_progress_bar_config(disable=False, desc="scales")
    pipe("a cat")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{len(SCALES)}/{len(SCALES)}" in shown.err


def test_a_pipeline_moves_between_number_types(text_model: Path, text: HartPipeline) -> None:
    pipe = HartPipeline.from_pretrained(text_model, device="cpu")
    before = image(pipe, "a cat")
    assert pipe.to("cpu", "float32") is pipe
    assert image(pipe, "a cat") == before
    expected = HartPipeline.from_pretrained(text_model, device="cpu", dtype="bfloat16")
    during: list[bytes] = []

    def move(preview: ScalePreview) -> None:
        if preview.k == 0:
            thread = threading.Thread(target=pipe.to, kwargs={"dtype": "bfloat16"})
            thread.start()
            thread.join()

    during.append(image(pipe, "a cat", callback_on_scale=move))
    assert during == [before]
    assert pipe.dtype == torch.bfloat16
    assert image(pipe, "a cat") == image(expected, "a cat")
    for wrong in ("tpu", "cuda:99"):
        with pytest.raises(HartError, match="device"):
            pipe.to(wrong)


def test_a_model_goes_to_the_hub(
    text: HartPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reachable_hub: None
) -> None:
    asked: dict[str, Any] = {}

    def create_repo(repository: str, **options: Any) -> SimpleNamespace:
        asked["created"] = (repository, options)
        return SimpleNamespace(repo_id=f"me/{repository}")

    def upload_folder(*, repo_id: str, folder_path: Path, token: str | None, commit_message: str) -> SimpleNamespace:
        asked["uploaded"] = (repo_id, token, commit_message)
        Path(folder_path).rename(tmp_path / "uploaded")
        Path(folder_path).mkdir()
        return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.upload_folder", upload_folder)
    assert text.push_to_hub("cats", private=True, token="t", commit_message="first") == "https://hub/commit"
    assert asked["created"] == ("cats", {"private": True, "token": "t", "exist_ok": True})
    assert asked["uploaded"] == ("me/cats", "t", "first")
    opened = HartPipeline.from_pretrained(tmp_path / "uploaded", device="cpu")
    assert image(opened, "a cat") == image(text, "a cat")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("401 Client Error\nRequest ID: 1")

    monkeypatch.setattr("huggingface_hub.create_repo", refuse)
    with pytest.raises(HartError, match=r"'cats' cannot be written to the Hugging Face hub \(401 Client Error"):
        text.push_to_hub("cats")


def test_what_users_of_diffusers_try_first_works_or_is_one_line(text: HartPipeline, tmp_path: Path) -> None:
    assert text.to(torch.bfloat16).dtype == torch.bfloat16
    assert text.to("cpu", torch.float32).dtype == torch.float32
    with pytest.raises(HartError, match="two number types"):
        text.to(torch.float32, torch.float16)
    with pytest.raises(HartError, match="unknown progress bar option"):
        text.set_progress_bar_config(total=3)
    with pytest.raises(HartError, match="must be a PIL image"):
        text.reconstruct("photo.png")  # type: ignore[arg-type]
    with pytest.raises(HartError, match="give a path"):
        text.save_pretrained("")
    (tmp_path / "file").touch()
    with pytest.raises(HartError, match="is a file: give a folder"):
        text.save_pretrained(tmp_path / "file")
    with pytest.raises(HartError, match=r"own: cannot write there .*: choose another folder"):
        text.save_pretrained(tmp_path / "file" / "own")


def test_unloading_adapters_returns_to_the_weights_from_before(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = tiny_text_config(width=512, heads=4, depth=1)  # packed where the processor can
    store_adapter(HartPipeline.from_config(config, device="cpu").hart, tmp_path, alpha=2, value=0.25)
    pipe = HartPipeline.from_config(config, device="cpu")
    before = image(pipe, "a cat")
    pipe.unload_lora()
    assert image(pipe, "a cat") == before
    pipe.load_lora(tmp_path)
    once = image(pipe, "a cat")
    pipe.load_lora(tmp_path, 0.5)
    assert len({before, once, image(pipe, "a cat")}) == 3
    pipe.unload_lora()
    assert image(pipe, "a cat") == before
