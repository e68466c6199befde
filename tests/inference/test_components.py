"""A pipeline is a value to others: it is copied, pickled and stored whatever is packed in it, and shares nothing."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from hart import HartPipeline
from hart.checkpoint.lora import add_lora, base_remark, save_lora
from hart.config import HartConfig
from hart.inference.packing import is_packed, packing_refusal
from hart.training.dry_run import LiveBytes
from helpers import random_context, store_adapter, teacher_input, tiny_model, tiny_text_config

# layers of 512 x 1536 and more are packed; those of 512 x 512 in the diffusion too
WIDE = tiny_text_config(width=512, heads=4, depth=1)
needs_packing = pytest.mark.skipif(packing_refusal(torch.float32) is not None, reason="this processor does not pack")


def wide(dtype: str = "float32") -> HartPipeline:
    return HartPipeline.from_config(WIDE, device="cpu", dtype=dtype)


def generated(pipe: HartPipeline) -> bytes:
    return pipe("a cat", seed=3).images[0].tobytes()


def described(*modules: nn.Module) -> list[object]:
    """All that a caller can see of modules: kinds, modes, types, gradients, places in memory, values."""
    seen: list[object] = [(name, type(m), m.training) for module in modules for name, m in module.named_modules()]
    for module in modules:
        for name, p in module.named_parameters():
            seen.append((name, p.dtype, p.requires_grad, p.stride(), p.data_ptr(), p.double().sum().item()))
    return seen


@needs_packing
def test_the_null_text_is_computed_once_for_weights_that_stay() -> None:
    pipe, single_tokens = wide(), list[int]()

    def images(twin: HartPipeline) -> list[bytes]:
        single_tokens.clear()
        block = twin.components.hart.transformer.blocks[0]
        handle = block.register_forward_pre_hook(
            lambda _, arguments: single_tokens.append(1) if arguments[0].shape[:2] == (1, 1) else None
        )
        found = [generated(twin) for _ in range(3)]
        handle.remove()
        assert len(set(found)) == 1
        return found

    image = images(pipe)[0]
    assert len(single_tokens) == 1
    assert images(copy.deepcopy(pipe))[0] == image
    assert len(single_tokens) == 1
    changed = pipe.hart.transformer.blocks[0].attention.proj.bias
    images(pipe)
    assert len(single_tokens) == 3
    changed.add_(0.5)
    assert images(pipe)[0] != image


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_copies_and_pickles_draw_the_same(dtype: str) -> None:
    pipe = wide(dtype)
    image = generated(pipe)
    for twin in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert generated(twin) == image
        assert is_packed(twin.components.hart) == (packing_refusal(pipe.dtype) is None)
        assert twin.fingerprints() == pipe.fingerprints()
        twin.hart.transformer.head.linear.bias.fill_(9.0)
    assert generated(pipe) == image


def test_a_device_by_another_name_is_no_move() -> None:
    pipe = wide()
    parts = pipe.components
    assert pipe.to("cpu:0").components is parts


def test_copies_and_pickles_are_compiled_too() -> None:
    pipe = HartPipeline.from_config(tiny_text_config(), device="cpu", speed="compiled")
    for twin in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        for block in twin.components.hart.transformer.blocks:
            assert {"before", "after"} <= vars(block).keys()


@needs_packing
def test_layers_are_unpacked_one_by_one_to_tell_what_an_adapter_was_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    adapted = add_lora(wide().hart, rank=2, alpha=2, generator=torch.Generator())
    save_lora(adapted, tmp_path, base_model="random")
    hart = wide().components.hart
    sizes = [value.nbytes for value in hart.transformer.blocks.state_dict().values()]
    with LiveBytes() as live:
        assert base_remark(hart, tmp_path) is None
    assert max(sizes) <= live.peak < 3 * max(sizes) < sum(sizes)


def test_the_plain_modules_are_what_the_pipeline_generates_with() -> None:
    pipe, untouched = wide(), wide()
    state = {name: value.clone() for name, value in tiny_model(WIDE)[1].state_dict().items()}
    pipe.hart.load_state_dict(state)
    assert not is_packed(pipe.hart)
    assert pipe.hart is pipe.components.hart
    other = HartPipeline(
        WIDE, pipe.tokenizer, pipe.hart, device=pipe.device, dtype=pipe.dtype, text_encoder=pipe.text_encoder
    )
    assert other.fingerprints() == pipe.fingerprints() != untouched.fingerprints()
    ours, theirs = (torch.tensor(list(generated(p)), dtype=torch.float32) for p in (pipe, other))
    assert (ours - theirs).abs().mean() < 2  # packed or plain: rounding alone
    assert generated(pipe) != generated(untouched)


def test_adapters_are_trained_on_the_pipelines_own_model() -> None:
    pytest.importorskip("peft")
    pipe = wide()
    hart = add_lora(pipe.hart, rank=2, alpha=2, generator=torch.Generator().manual_seed(0))
    before = generated(pipe)
    output = hart.transformer(random_context(WIDE, 1), teacher_input(WIDE, 1))
    hart.transformer.logits(output.hidden, output.conditioning).square().mean().backward()
    moved = 0
    with torch.no_grad():
        for parameter in hart.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter.sub_(100 * parameter.grad)
                moved += 1
    assert moved > 0
    assert generated(pipe) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [WIDE, tiny_text_config()], ids=["wide", "narrow"])
def test_the_callers_modules_stay_as_they_were(config: HartConfig, dtype: torch.dtype) -> None:
    tokenizer, hart = tiny_model(config)
    hart.train()
    before = described(tokenizer, hart)
    encoder = HartPipeline.from_config(config, device="cpu").text_encoder
    pipe = HartPipeline(config, tokenizer, hart, device=torch.device("cpu"), dtype=dtype, text_encoder=encoder)
    image = generated(pipe)
    assert described(tokenizer, hart) == before
    for parameter in (*hart.parameters(), *tokenizer.parameters()):
        parameter.data.zero_()
    assert generated(pipe) == image
    assert pipe.hart.transformer.word_embed.weight.dtype == dtype


def test_what_is_loaded_while_generating_serves_later_calls_only(tmp_path: Path) -> None:
    """Another thread loads an adapter between two scales of a call: that call ends as it began."""
    pytest.importorskip("peft")
    store_adapter(wide().hart, tmp_path, alpha=8, value=0.3)
    pipe = wide()
    plain, calls = generated(pipe), 0

    def load_meanwhile(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            thread = threading.Thread(target=pipe.load_lora, args=(tmp_path,))
            thread.start()
            thread.join()

    during = pipe("a cat", seed=3, callback_on_scale=load_meanwhile).images[0].tobytes()
    assert during == plain
    after = generated(pipe)
    assert after != plain
    expected = wide()
    expected.load_lora(tmp_path)
    assert after == generated(expected)


def test_loads_of_several_threads_all_count(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = tiny_text_config()
    store_adapter(HartPipeline.from_config(config, device="cpu").hart, tmp_path, alpha=2, value=0.25)
    pipe, one_by_one = (HartPipeline.from_config(config, device="cpu") for _ in range(2))
    threads = [threading.Thread(target=pipe.load_lora, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(4):
        one_by_one.load_lora(tmp_path)
    assert pipe.fingerprints() == one_by_one.fingerprints()
