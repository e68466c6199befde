"""Values that callers give to a pipeline: the usual types are taken, others are one `HartError`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hart
from hart import HartError, HartOutput, HartPipeline, SamplingConfig
from hart.config import MAX_SEED
from hart.errors import PromptWarning


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": None}, "give either a prompt or prompt_embeds"),
        ({"prompt": 3.5}, "a prompt must be text"),
        ({"prompt": b"a cat"}, "a prompt must be text"),
        ({"prompt": {"a cat": 1}}, "a prompt must be text"),
        ({"prompt": np.array(3.5)}, "a prompt must be text"),
        ({"prompt": [None]}, "not None"),
        ({"prompt": "x" * 10**6}, "has 1000000 characters: give at most 100000"),
        ({"guidance_scale": "4"}, "guidance_scale: expected a number, got '4'"),
        ({"top_k": 2.5}, "top_k: expected a whole number, got 2.5"),
        ({"top_k": 10**30}, "^top_k must be at most"),
        ({"guidance_scale": float("nan")}, "^guidance_scale must be a finite number"),
        ({"gumbel_smoothing": "yes"}, "gumbel_smoothing: expected true or false"),
        ({"sampling": {"top_k": 3}}, "must be a SamplingConfig"),
        ({"seed": True}, "seed True"),
        ({"seed": "1"}, "seed '1'"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"num_images_per_prompt": "2"}, "num_images_per_prompt '2'"),
        ({"num_images_per_prompt": 10**30}, "num_images_per_prompt"),
        ({"batch_size": 1e3}, "batch_size"),
        ({"size": "8x"}, "size '8x'"),
        ({"size": 10**12}, "size"),
    ],
)
def test_other_types_are_one_error(text: HartPipeline, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(HartError, match=said) as error:
        text(**{"prompt": "a cat"} | arguments)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", [None, 3, ["emoji"], b"emoji", "a\0b", "x" * 5000, Path("no/such"), "~nobody/model"])
def test_a_model_is_a_name_or_a_path(name: Any) -> None:
    with pytest.raises(HartError, match="model"):
        HartPipeline.from_pretrained(name)


@pytest.mark.parametrize(("adapter", "scale"), [(None, 1.0), (3, 1.0), ("x", "strong"), ("x", float("nan"))])
def test_an_adapter_is_a_path_and_its_scale_a_number(text: HartPipeline, adapter: Any, scale: Any) -> None:
    with pytest.raises(HartError):
        text.load_lora(adapter, scale)


@pytest.mark.parametrize("seed", [0, 2**31, 2**40, MAX_SEED])
def test_every_accepted_seed_works_everywhere(text: HartPipeline, seed: int) -> None:
    pipe = HartPipeline.from_config(text.config, seed=seed, device="cpu")
    out = pipe("a cat", seed=seed)
    assert out.seeds == [seed]
    assert images(out) != images(HartPipeline.from_config(text.config, seed=1, device="cpu")("a cat", seed=seed))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 1.0, None])
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


def test_parts_are_ordinary_tensors_however_they_were_loaded(text_model: Path) -> None:
    with torch.inference_mode():
        pipe = HartPipeline.from_pretrained(text_model, device="cpu")
    pipe("a cat")
    for module in (pipe.hart, pipe.tokenizer, pipe.text_encoder):
        assert not any(parameter.is_inference() for parameter in module.parameters())  # type: ignore[union-attr]
        module.load_state_dict(module.state_dict())  # type: ignore[union-attr]


def test_what_users_need_is_in_the_package() -> None:
    assert {"HartConfig", "HartError", "HartOutput", "HartPipeline", "SamplingConfig"} <= set(hart.__all__)
    assert all(getattr(hart, name) is not None for name in hart.__all__)
    assert SamplingConfig(top_k=3).top_k == 3
