"""Recorded blocks give the plain loop's numbers, image after image, on memory that is lent and comes back.

A recorder for processors stands in for CUDA graphs: it does the recorded work again on the recorded memory.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hart import HartPipeline, ImageRequest
from hart.config import HartConfig, SamplingConfig
from hart.inference.graphs import MOST_KINDS, BlockGraphs
from hart.inference.speed import Speed
from helpers import tiny_class_config, tiny_text_config

RECORDED: list[int] = []


def replaying(work: Callable[[], Tensor], *_: object) -> tuple[Callable[[], None], Tensor, None]:
    """As CUDA graphs do: a replay reads and writes the memory of the recording, whatever was passed since."""
    result = work()
    RECORDED.append(len(result))

    def replay() -> None:
        result.copy_(work())

    return replay, result, None


MASKED = tiny_text_config(masked_last_scale=True).replace(sampling=SamplingConfig(maskgit_steps=2))


@pytest.mark.parametrize(
    "config",
    [tiny_text_config(), tiny_class_config(modulation="shared"), MASKED],
    ids=["text", "class", "masked last scale"],
)
def test_recorded_blocks_make_the_same_images(config: HartConfig) -> None:
    pipe = HartPipeline.from_config(config, device="cpu")
    prompts = ["a cat", "a dog"] if config.transformer.text is not None else [1, 2]
    seeds = (3, 4)
    expected = [pipe(prompt, seed=seed, output_type="latent").images for prompt in prompts for seed in seeds]
    graphs = pipe.components.hart.transformer.graphs = BlockGraphs(replaying)
    RECORDED.clear()
    found = [pipe(prompt, seed=seed, output_type="latent").images for prompt in prompts for seed in seeds]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert len(RECORDED) == len(config.transformer.scales) - 1  # once a scale, not once an image
    together = pipe(prompts, seed=3, batch_size=2, output_type="latent").images
    assert len(RECORDED) == 2 * (len(config.transformer.scales) - 1)
    assert together.isfinite().all()
    # a batch that goes on without guidance still holds its memory
    settings = {"seed": 3, "output_type": "latent", "unguided_scales": 2}
    late = [pipe(prompts[0], **settings).images for _ in range(2)]
    assert torch.equal(late[0], late[1])
    gc.collect()
    assert sum(map(len, graphs.free.values())) == 2  # one cache for each size of batch


def test_a_batch_goes_on_without_the_rows_that_leave_on_memory_that_is_lent_once_more() -> None:
    pipe = HartPipeline.from_config(tiny_text_config(), device="cpu")
    scales = len(pipe.config.transformer.scales)

    def last_of(rows: list[int]) -> Tensor:
        states = pipe.generate_rows([ImageRequest(f"a {name}", seed=3) for name in ("cat", "dog", "cow")])
        next(states)
        state = states.send(rows)
        for _ in range(scales - 2):
            state = next(states)
        return state.latent

    expected = [last_of(rows) for rows in ([0, 2], [1], [0, 1, 2])]
    graphs = pipe.components.hart.transformer.graphs = BlockGraphs(replaying)
    for _ in range(2):
        RECORDED.clear()
        found = [last_of(rows) for rows in ([0, 2], [1], [0, 1, 2])]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert not RECORDED  # the second time all are replayed
    gc.collect()
    assert sum(map(len, graphs.free.values())) == 1


def test_memory_and_graphs_of_sizes_that_nobody_asks_for_any_more_are_freed() -> None:
    pipe = HartPipeline.from_config(tiny_text_config(), device="cpu")
    expected = pipe("a cat", seed=3, output_type="latent").images
    graphs = pipe.components.hart.transformer.graphs = BlockGraphs(replaying)
    states = pipe.generate_rows([ImageRequest("a cat"), ImageRequest("a dog")])
    next(states)
    for batch in range(3, 3 + MOST_KINDS):
        pipe(["a cat"] * batch, batch_size=batch, output_type="latent")
    *_, last = states  # on memory whose kind has been given up
    assert last.latent.isfinite().all()
    del states
    gc.collect()
    assert [len(waiting) for waiting in graphs.free.values()] == [1] * MOST_KINDS
    assert all(cache.recorded for (cache,) in graphs.free.values())
    assert torch.equal(pipe("a cat", seed=3, output_type="latent").images, expected)


def test_two_batches_at_once_have_their_own_memory() -> None:
    pipe = HartPipeline.from_config(tiny_text_config(), device="cpu")
    transformer = pipe.components.hart.transformer
    transformer.graphs = BlockGraphs(replaying)
    first, second = transformer.new_cache(1), transformer.new_cache(1)
    memory = {cache.numbers.data_ptr() for cache in (first, second)}
    assert len(memory) == 2
    first.advance(1)
    del first, second
    gc.collect()
    again = transformer.new_cache(1)
    assert again.length == 0
    assert again.numbers.data_ptr() in memory


def test_copies_are_not_recorded() -> None:
    """They may go to any device; a pipeline's own records anew."""
    transformer = HartPipeline.from_config(tiny_text_config(), device="cpu").components.hart.transformer
    transformer.graphs = BlockGraphs(replaying)
    for twin in (copy.deepcopy(transformer), pickle.loads(pickle.dumps(transformer))):
        assert twin.graphs is None


def test_plain_modules_are_not_recorded() -> None:
    """Whoever asks for them may replace layers, which a recording would not see."""
    pipe = HartPipeline.from_config(tiny_text_config(), device="cpu", speed=Speed(weights="plain", graphs=True))
    pipe.components.hart.transformer.graphs = BlockGraphs(replaying)
    before = pipe("a cat", seed=3, output_type="latent").images
    attention = pipe.hart.transformer.blocks[0].attention
    assert pipe.hart is pipe.hart and not pipe.speed.graphs
    attention.proj = torch.nn.Linear(attention.proj.in_features, attention.proj.out_features)
    assert not torch.equal(pipe("a cat", seed=3, output_type="latent").images, before)


def test_scales_of_a_cache_record_into_one_pool_and_those_of_others_do_not() -> None:
    pools = list[object]()

    def capture(work: Callable[[], Tensor], device: torch.device, pool: object) -> object:
        assert device.type == "cpu"
        pools.append(pool)
        return *replaying(work)[:2], pool or object()

    pipe = HartPipeline.from_config(tiny_text_config(), device="cpu")
    pipe.components.hart.transformer.graphs = BlockGraphs(capture)  # type: ignore[arg-type]
    for batch in (1, 2):
        pools.clear()
        pipe(["a cat"] * batch, batch_size=batch)
        assert pools[0] is None and len(pools) == len(pipe.config.transformer.scales) - 1
        assert None not in pools[1:] and len(set(pools[1:])) == 1
