"""Values that callers give to a pipeline: the usual types are taken, others are one `HartError`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hart import HartError, HartOutput, HartPipeline
from hart.config import MAX_SEED
from hart.errors import PromptWarning
from hart.types import ClassContext, TextContext
from helpers import CHANNELS, CLASSES, TEXT_TOKENS, TEXT_WIDTH


def images(out: HartOutput) -> list[bytes]:
    return [image.tobytes() for image in out.images]


@pytest.mark.parametrize(
    "prompts",
    [
        ("a cat", "a dog"),
        (p for p in ("a cat", "a dog")),
        np.array(["a cat", "a dog"]),
        {"a cat": 1, "a dog": 2}.keys(),
    ],
    ids=["tuple", "generator", "array", "view"],
)
def test_prompts_come_in_any_container(text: HartPipeline, prompts: Any) -> None:
    out = text(prompts)
    assert images(out) == images(text(["a cat", "a dog"]))
    assert [type(prompt) for prompt in out.prompts] == [str, str]


def test_numbers_of_numpy_are_numbers(text: HartPipeline, classes: HartPipeline) -> None:
    out = text(
        "a cat", seed=np.int64(3), guidance_scale=np.float32(2), top_k=np.int32(5), gumbel_smoothing=np.bool_(False)
    )  # type: ignore[arg-type]
    assert images(out) == images(text("a cat", seed=3, guidance_scale=2, top_k=5, gumbel_smoothing=False))
    assert type(out.seeds[0]) is int
    assert images(classes(np.array([1, 2]))) == images(classes([1, 2])) == images(classes(torch.tensor([1, 2])))
    assert images(classes(["1", "2"])) == images(classes([1, 2])), "as a command line has them"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda pipe: HartPipeline.from_config(None), "give a path"),
        (lambda pipe: HartPipeline.from_config(Path("no.json")), "no.json: no such file"),
        (lambda pipe: HartPipeline.from_config(pipe.config, speed=3), "speed must be a Speed or one of plain, exact"),
        (lambda pipe: HartPipeline("emoji", None, None), "open a model with from_pretrained"),
        (
            lambda pipe: HartPipeline(pipe.config, pipe.tokenizer, pipe.hart, text_encoder="Qwen2"),
            "must be a TextEncoder .*not 'Qwen2'",
        ),
        (lambda pipe: pipe.mix(["a", "b"], 0.5), "weights 0.5: give 4 from 0 to 1"),
        (lambda pipe: pipe.vary(Image.new("RGB", (0, 5))), "image has 0x5 pixels"),
        (lambda pipe: pipe.reconstruct(Image.new("RGB", (0, 0))), "image has 0x0 pixels"),
    ],
)
def test_values_of_other_types_are_one_error(text: HartPipeline, call: Any, said: str) -> None:
    with pytest.raises(HartError, match=said):
        call(text)


CONTEXT = TextContext(torch.zeros(2, TEXT_TOKENS, TEXT_WIDTH), torch.ones(2, TEXT_TOKENS, dtype=torch.bool))
GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give either a prompt or prompt_embeds"),
        ({"prompt": 3.5}, "a prompt must be text"),
        ({"prompt": [None]}, "generates from text: .* not None"),
        ({"prompt": []}, "at least one"),
        ({"prompt": ["a cat", "  \n"]}, "prompt 2 is empty"),
        ({"prompt": ["a cat", "caf\udce9"]}, "prompt 2 is not valid Unicode"),
        ({"prompt": "a\0b"}, "null byte"),
        ({"prompt": "x" * 10**6}, "has 1000000 characters: give at most 100000"),
        ({"prompt": "a", "prompt_embeds": CONTEXT}, "give either a prompt or prompt_embeds"),
        ({"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": CONTEXT}, "give either negative_prompt"),
        ({"prompt": "a", "negative_prompt": "b", "guidance_scale": 0}, "works through guidance"),
        ({"prompt": "a", "negative_prompt": ["b", "c"]}, "2 negative prompts for 1 prompt:"),
        ({"prompt": "a", "negative_prompt_embeds": CONTEXT}, "2 negative prompts for 1 prompt:"),
        ({"prompt_embeds": CONTEXT.embeddings}, "must be a TextContext, as encode_prompt returns it, not Tensor"),
        ({"prompt_embeds": replace(CONTEXT, embeddings=torch.zeros(2, 1, TEXT_WIDTH))}, "this model takes"),
        ({"prompt_embeds": replace(CONTEXT, embeddings=CONTEXT.embeddings / 0)}, "finite"),
        ({"prompt_embeds": replace(CONTEXT, mask=~CONTEXT.mask)}, "real token"),
        ({"prompt_embeds": replace(CONTEXT, mask=CONTEXT.mask.long())}, "bool"),
        ({"prompt_embeds": ClassContext(torch.zeros(1).long(), 2)}, "must be a TextContext"),
        ({"prompt": "a", "generator": 3}, "torch.Generator"),
        ({"prompt": "a", "generator": [3]}, "torch.Generator"),
        ({"prompt": "a", "generator": [GENERATOR, torch.Generator()]}, "2 generators for 1 image:"),
        ({"prompt": "a", "num_images_per_prompt": 2, "generator": [GENERATOR, GENERATOR]}, "twice"),
        ({"prompt": "a", "callback_on_scale": 3}, "callback_on_scale must be a function or None, not 3"),
        ({"prompt": "a", "seed": [1, 2]}, "2 seeds for 1 image:"),
        ({"prompt": ["a", "b"], "top_k": [1, 2, 3]}, "top_k: 3 values for 2 prompts"),
        ({"prompt": ["a", "b"], "guidance_scale": [1, "x"]}, "guidance_scale: expected a number, got 'x'"),
        ({"prompt": ["a", "b"], "guidance_scale": [[1], [2]]}, "a flat list"),
        ({"prompt": ["a", "b"], "top_p": np.ones((2, 1))}, "a flat list"),
        ({"prompt": ["a", "b"], "maskgit_steps": [1, 2]}, "maskgit_steps: expected a whole number"),
        ({"prompt": "a", "generator": GENERATOR, "seed": 1}, "either a seed or a generator"),
        ({"prompt": "a", "output_type": "jpeg"}, "output_type 'jpeg': choose pil, np, pt, latent"),
        ({"prompt": "a", "seed": -1}, "seed -1"),
        ({"prompt": "a", "seed": True}, "seed True"),
        ({"prompt": "a", "seed": MAX_SEED, "num_images_per_prompt": 2}, "seed"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt 0"),
        ({"prompt": "a", "batch_size": 1e3}, "batch_size"),
        ({"prompt": "a", "size": "8x"}, "size '8x'"),
        ({"prompt": "a", "guidance_scale": float("nan")}, "^guidance_scale must be a finite number"),
        ({"prompt": "a", "sampling": {"top_k": 3}}, "must be a SamplingConfig"),
        ({"prompt": "a", "num_inference_steps": 20}, "unknown argument 'num_inference_steps': settings are"),
    ],
)
def test_arguments_that_do_not_fit_are_one_error(text: HartPipeline, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(HartError, match=said) as error:
        text(**arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["num_images_per_prompt", "negative_prompt", "collect", "mix", "batch_size"])
def test_what_a_call_alone_takes_is_refused_where_latents_are_generated(text: HartPipeline, name: str) -> None:
    with pytest.raises(HartError, match=f"unknown argument '{name}': settings are"):
        text.generate(text.encode_prompt("a cat"), **{name: 2})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "known"),
    [([CLASSES + 1], CLASSES), ([-1], CLASSES), ([], CLASSES), ([0], CLASSES + 1), ([[0]], CLASSES)],
)
def test_classes_that_do_not_fit_are_one_error(classes: HartPipeline, labels: Any, known: int) -> None:
    with pytest.raises(HartError, match="prompt_embeds"):
        classes.generate(ClassContext(torch.tensor(labels, dtype=torch.long), known))


@pytest.mark.parametrize(
    "latents",
    [None, torch.zeros(CHANNELS, 4, 4), torch.zeros(1, CHANNELS + 1, 4, 4), torch.full((1, CHANNELS, 4, 4), np.nan)],
)
def test_latents_that_do_not_fit_are_one_error(text: HartPipeline, latents: Any) -> None:
    with pytest.raises(HartError, match="latents"):
        text.decode(latents)


@pytest.mark.parametrize("name", [None, b"emoji", "a\0b", "x" * 5000, "~nobody/model"])
def test_a_model_is_a_name_or_a_path(name: Any) -> None:
    with pytest.raises(HartError, match="model"):
        HartPipeline.from_pretrained(name)


@pytest.mark.parametrize(("adapter", "scale"), [(None, 1.0), ("x", "strong"), ("x", float("nan"))])
def test_an_adapter_is_a_path_and_its_scale_a_number(text: HartPipeline, adapter: Any, scale: Any) -> None:
    with pytest.raises(HartError):
        text.load_lora(adapter, scale)


@pytest.mark.parametrize("seed", [2**40, MAX_SEED])
def test_every_accepted_seed_works_everywhere(text: HartPipeline, seed: int) -> None:
    pipe = HartPipeline.from_config(text.config, seed=seed, device="cpu")
    out = pipe("a cat", seed=seed)
    assert out.seeds == [seed]
    assert images(out) != images(HartPipeline.from_config(text.config, seed=1, device="cpu")("a cat", seed=seed))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0])
def test_other_seeds_are_refused(text: HartPipeline, seed: Any) -> None:
    with pytest.raises(HartError, match="seed"):
        HartPipeline.from_config(text.config, seed=seed, device="cpu")


def test_what_the_text_encoder_does_not_read_is_a_warning(text: HartPipeline) -> None:
    with pytest.warns(PromptWarning, match='"a table" is left out') as caught:
        text("a red apple on a table", num_images_per_prompt=2)
    assert [warning.filename for warning in caught] == [__file__], "one, and it points at this call"
    with pytest.warns(PromptWarning, match="does not know"):
        text("\u043a\u043e\u0442")


def test_images_that_are_not_collected_are_handed_on(text: HartPipeline) -> None:
    seen: list[HartOutput] = []
    out = text("a cat", num_images_per_prompt=3, batch_size=2, callback_on_batch=seen.append, collect=False)
    assert (out.images, out.prompts, out.seeds) == ([], [], [])
    assert [batch.seeds for batch in seen] == [[0, 1], [2]]


def test_parts_and_features_are_ordinary_tensors_however_they_were_made(text_model: Path) -> None:
    with torch.inference_mode():
        pipe = HartPipeline.from_pretrained(text_model, device="cpu")
        features = pipe.encode_prompt("a cat")
    assert isinstance(features, TextContext) and not features.embeddings.is_inference()
    pipe("a cat")
    for module in (pipe.hart, pipe.tokenizer, pipe.text_encoder):
        assert not any(parameter.is_inference() for parameter in module.parameters())  # type: ignore[union-attr]
        module.load_state_dict(module.state_dict())  # type: ignore[union-attr]
