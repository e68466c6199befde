"""Images of different people in one batch: each is what it is alone, whatever its neighbours ask for."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edited_images import LEFT, mask_of, picture
from hart import HartError, HartPipeline, ImageRequest, PromptMix
from hart.inference.speed import Speed
from hart.layers.kv_cache import KVCache
from helpers import rows_computed


def requests(pipe: HartPipeline, **shared: Any) -> list[ImageRequest]:
    """Images that have nothing in common but what a batch has."""
    base, texts = pipe.config.sampling.replace(**shared), pipe.num_classes is None
    own: list[dict[str, Any]] = [
        {"guidance_scale": 0.0},
        {"guidance_scale": 3.0, "top_k": 4, "gumbel_smoothing": False},
        {"top_p": 0.5},
        {"top_k": None, "gumbel_smoothing": True},
    ]
    images = [
        ImageRequest(
            f"a {('cat', 'dog', 'cow', 'fox')[i]}" if texts else i, seed=2**40 + i, sampling=base.replace(**one)
        )
        for i, one in enumerate(own)
    ]
    images[3] = replace(images[3], negative_prompt="a hen" if texts else 4)
    return images


def latents(pipe: HartPipeline, images: list[ImageRequest]) -> Tensor:
    *_, last = pipe.generate_rows(images)
    return last.latent


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        ("text", {}),
        ("text", {"maskgit_steps": 3, "diffusion_steps": 3}),
        ("text", {"discrete_only": True}),
        ("classes", {}),
    ],
)
def test_an_image_is_the_same_alone_and_among_others(
    kind: str, shared: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    pipe: HartPipeline = request.getfixturevalue(kind)
    images = requests(pipe, **shared)
    alone = torch.cat([latents(pipe, [image]) for image in images])
    order = [2, 0, 3, 1]
    for found in (latents(pipe, images), latents(pipe, [images[i] for i in order])[[order.index(i) for i in range(4)]]):
        # the tolerances of the golden cases: guidance and clipping amplify rounding at single tokens
        assert (found - alone).abs().max() < 1e-2
        assert (found - alone).abs().mean() < 1e-3
    assert len({tuple(latent.flatten().tolist()) for latent in alone}) == 4


def test_settings_of_a_call_may_be_one_for_each_image(text: HartPipeline) -> None:
    prompts = ["a cat", "a dog"]
    own: dict[str, list[Any]] = {
        "seed": [9, 2], "guidance_scale": [0.0, 3.0], "top_k": [0, 4], "top_p": [0.5, 1.0],
        "gumbel_smoothing": [True, False], "greedy_scales": [0, 2],
    }  # fmt: skip
    out = text(prompts, **own)
    assert out.seeds == [9, 2]
    assert [sampling.top_k for sampling in out.sampling] == [None, 4]
    for i, image in enumerate(out.images):
        (single,) = text(prompts[i], **{name: values[i] for name, values in own.items()}).images
        assert image.tobytes() == single.tobytes()
    twice = text(prompts, num_images_per_prompt=2, guidance_scale=[1.0, 2.0], top_k=[1, 2, 3, 4])
    assert [(s.guidance_scale, s.top_k) for s in twice.sampling] == [(1.0, 1), (1.0, 2), (2.0, 3), (2.0, 4)]


def test_settings_that_shape_the_work_are_the_batchs(text: HartPipeline) -> None:
    images = requests(text)
    assert images[0].sampling is not None
    images[0] = replace(images[0], sampling=images[0].sampling.replace(diffusion_steps=2))
    with pytest.raises(HartError, match="the images of a batch need the same diffusion_steps"):
        text.generate_rows(images)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "number of images"),
        (["a cat"], "a list of ImageRequest, not 'a cat'"),
        ([ImageRequest("")], "empty"),
        ([ImageRequest("a cat", seed=-1)], "seed -1"),
        ([ImageRequest(3)], "generates from text"),
        ([ImageRequest("a cat", sampling={})], "SamplingConfig"),  # type: ignore[arg-type]
    ],
)
def test_requests_that_do_not_fit_are_one_error(text: HartPipeline, wrong: Any, said: str) -> None:
    with pytest.raises(HartError, match=said):
        text.generate_rows(wrong)


def changed(pipe: HartPipeline) -> list[ImageRequest]:
    """`requests`, of which some follow, mix, keep or take the colours of others, and one has a negative prompt."""
    images, second = requests(pipe), "a hen" if pipe.num_classes is None else 5
    edits = [
        pipe.prepare_edit(picture(), mask_of(*LEFT), style_strength=1.0),
        pipe.prepare_edit(picture(seed=1), None, source_prompt=second),
        None,
        pipe.prepare_variation(picture(seed=2), kept_scales=2),
    ]
    images = [replace(image, edit=edit) for image, edit in zip(images, edits, strict=True)]
    images[2] = replace(images[2], mix=PromptMix(second, (0.0, *[0.5] * (len(pipe.config.tokenizer.scales) - 1))))
    return images


@pytest.mark.parametrize(
    ("kind", "make", "cache"),
    [
        ("text", requests, "model"),
        ("text", requests, "int8"),
        ("text", changed, "model"),
        ("classes", changed, "model"),
    ],
)
def test_rows_that_leave_are_sampled_no_further_and_change_nothing(
    kind: str, make: Any, cache: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe: HartPipeline = request.getfixturevalue(kind)
    pipe.optimize(Speed(cache=cache))
    images, scales = make(pipe), len(pipe.config.tokenizer.scales)
    images = [replace(image, sampling=image.sampling.replace(unguided_scales=1)) for image in images]
    together = latents(pipe, images)
    computed = rows_computed(monkeypatch)
    for leaving in ([[0, 2, 3]], [[1, 2, 3], [0, 2], [1]], [[0, 1, 2, 3], [0, 1], [0]], [[3]]):
        states, left = pipe.generate_rows(images), [0, 1, 2, 3]
        state = next(states)
        for k in range(1, scales):
            rows = leaving[k - 1] if k <= len(leaving) else None
            state, left = states.send(rows), left if rows is None else [left[row] for row in rows]
            assert len(state.latent) == len(left)
            assert computed[-1] <= 3 * len(left)  # prompts, second prompts, the null half
        assert len(list(states)) == 0
        difference = (state.latent - together[left]).abs()
        assert difference.max() < 1e-2 and difference.mean() < 1e-3
    pipe.optimize(Speed())


@pytest.mark.parametrize("rows", [[], [1, 0], [0, 4]])
def test_rows_that_are_none_of_the_batch_are_refused(text: HartPipeline, rows: list[int]) -> None:
    states = text.generate_rows(requests(text))
    next(states)
    with pytest.raises(HartError, match="give numbers from 0 to 3"):
        states.send(rows)


def test_who_stops_asking_frees_the_memory(text: HartPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[weakref.ref[KVCache]] = []
    start = KVCache.__init__

    def watched(self: KVCache, *args: Any, **options: Any) -> None:
        caches.append(weakref.ref(self))
        start(self, *args, **options)

    monkeypatch.setattr(KVCache, "__init__", watched)
    states = text.generate_rows(requests(text))
    latent = next(states).latent
    assert any(cache() is not None for cache in caches)
    gc.disable()
    try:
        states.close()
        assert all(cache() is None for cache in caches)
    finally:
        gc.enable()
    assert latent.isfinite().all()
