"""LoRA: an adapter trained beside the weights generates the same when merged into them, and fits only its own model."""

from __future__ import annotations

import json
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hart.checkpoint.lora import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    BASE_FILE,
    LoraTarget,
    add_lora,
    base_remark,
    merge_lora,
    save_lora,
)
from hart.config import HartConfig
from hart.errors import AdapterWarning, HartError, PromptWarning
from hart.layers.quantized import quantize_linears
from hart.model import Hart
from hart.pipeline import HartPipeline
from hart.serving.pipeline_engine import PipelineEngine
from hart.text_encoder import Reading
from helpers import (
    random_context,
    same_weights,
    teacher_input,
    tiny_class_config,
    tiny_model,
    tiny_text_config,
    without_gradient,
)

ALL: tuple[LoraTarget, ...] = ("attention", "mlp", "word_embed")


@pytest.fixture(autouse=True, scope="module")
def _needs_peft() -> None:
    pytest.importorskip("peft")


def adapted(config: HartConfig, targets: tuple[LoraTarget, ...] = ALL) -> Hart:
    """A tiny model with adapters that do something, as after some training."""
    hart = add_lora(tiny_model(config)[1], rank=2, alpha=4, generator=torch.Generator().manual_seed(1), targets=targets)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(hart.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    return hart


@torch.no_grad()
def logits(hart: Hart) -> Tensor:
    config = hart.config
    output = hart.transformer(random_context(config, 2), teacher_input(config, 2))
    return hart.transformer.logits(output.hidden, output.conditioning)


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["swiglu", "gelu"])
def test_a_saved_adapter_merged_into_the_model_gives_the_trained_logits(config: HartConfig, tmp_path: Path) -> None:
    trained = adapted(config)
    save_lora(trained, tmp_path, base_model="runs/base")
    plain = tiny_model(config)[1]
    before = logits(plain)
    names = set(plain.state_dict())
    merge_lora(plain, tmp_path)
    torch.testing.assert_close(logits(plain), logits(trained), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(plain), before, atol=1e-2)
    assert set(plain.state_dict()) == names, "a merged model is a plain one"


def test_the_folder_is_peft_s_own_format(tmp_path: Path) -> None:
    config = tiny_text_config()
    trained = adapted(config)
    save_lora(trained, tmp_path, base_model="runs/base")
    other = tiny_model(config)[1]
    wrapped = import_module("peft").PeftModel.from_pretrained(other.transformer, str(tmp_path), torch_device="cpu")
    with torch.no_grad():
        output = wrapped(random_context(config, 2), teacher_input(config, 2))
        theirs = other.transformer.logits(output.hidden, output.conditioning)
    torch.testing.assert_close(theirs, logits(trained))


def test_only_the_adapters_learn_and_they_start_as_nothing() -> None:
    config = tiny_text_config()
    plain = tiny_model(config)[1]
    hart = add_lora(tiny_model(config)[1], rank=2, alpha=2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(logits(hart), logits(plain))
    trainable = {name for name, p in hart.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 5 * config.transformer.depth, "two matrices for each of five layers a block"
    assert all("lora_" in name for name in trainable)

    hart = adapted(config)
    output = hart.transformer(random_context(config, 2), teacher_input(config, 2))
    hart.transformer.logits(output.hidden, output.conditioning).square().mean().backward()
    assert not without_gradient(hart)
    assert all(p.grad is None for name, p in hart.named_parameters() if "lora_" not in name)


def test_the_generator_alone_decides_the_start() -> None:
    def start(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        hart = add_lora(tiny_model(tiny_text_config())[1], rank=2, alpha=2, generator=generator)
        return {name: p for name, p in hart.named_parameters() if "lora_A" in name}

    first = start(0)
    again, other = start(0), start(1)
    assert same_weights(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    hart = tiny_model(tiny_text_config())[1]
    state = torch.get_rng_state()
    add_lora(hart, rank=2, alpha=2, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_scale_and_several_adapters(tmp_path: Path) -> None:
    config = tiny_text_config()
    save_lora(adapted(config), tmp_path, base_model="runs/base")
    plain, once, halves = (tiny_model(config)[1] for _ in range(3))
    merge_lora(once, tmp_path, 0.0)
    torch.testing.assert_close(logits(once), logits(plain))
    merge_lora(once, tmp_path)
    merge_lora(halves, tmp_path, 0.5)
    merge_lora(halves, tmp_path, 0.5)
    torch.testing.assert_close(logits(halves), logits(once), rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_the_adapter_s_own(tmp_path: Path) -> None:
    config = tiny_text_config()
    save_lora(adapted(config), tmp_path, base_model="runs/base")
    wide, narrow = tiny_model(config)[1], tiny_model(config)[1].to(torch.bfloat16)
    base = narrow.transformer.word_embed.weight.float()
    delta = -wide.transformer.word_embed.weight.clone()
    merge_lora(wide, tmp_path)
    merge_lora(narrow, tmp_path)
    delta += wide.transformer.word_embed.weight
    assert torch.equal(narrow.transformer.word_embed.weight, (base + delta).to(torch.bfloat16))
    assert narrow.transformer.word_embed.weight.dtype == torch.bfloat16


def test_the_pipeline_takes_an_adapter(tmp_path: Path) -> None:
    # wide enough for layers that are packed for inference, where the processor gains by it
    config = tiny_text_config(width=256, heads=4, depth=1, mlp="gelu")
    save_lora(adapted(config), tmp_path, base_model="runs/base")
    pipe, plain = (HartPipeline(config, *tiny_model(config), device="cpu") for _ in range(2))
    pipe.load_lora(str(tmp_path))
    embeds = random_context(config, 1)
    assert not torch.equal(pipe.generate(embeds), plain.generate(embeds))
    merge_lora(plain.hart, tmp_path)
    assert same_weights(pipe.components.hart, plain.hart)
    (tmp_path / ADAPTER_CONFIG).unlink()
    with pytest.raises(HartError, match="no LoRA adapter here"):
        pipe.load_lora(tmp_path)
    assert pipe.generate(embeds).isfinite().all()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"width": 64}, r"word_embed.lora_B.weight is \(32, 2\), the model takes \(64, 2\)"),
        ({"depth": 1}, r"unexpected blocks.1.attention.qkv.lora_A.weight"),
        ({"depth": 3}, r"missing blocks.2.attention.qkv.lora_A.weight"),
        ({"mlp": "gelu"}, r"unexpected blocks.0.mlp.gate"),
    ],
)
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, other: dict[str, object], named: str) -> None:
    save_lora(adapted(tiny_text_config()), tmp_path, base_model="runs/base")
    hart = tiny_model(tiny_text_config(**other))[1]
    before = logits(hart)
    with pytest.raises(HartError, match=r"trained on runs/base and does not fit models/mine: .*" + named):
        merge_lora(hart, tmp_path, model="models/mine")
    assert torch.equal(logits(hart), before)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_weights_that_an_adapter_was_not_trained_on_are_told_from_those_that_it_was(tmp_path: Path, kind: str) -> None:
    config = tiny_text_config(width=64, heads=4)
    save_lora(adapted(config), tmp_path, base_model="runs/base")
    for others in (False, True):
        hart = tiny_model(config)[1]
        if others:
            weight = hart.transformer.blocks[0].attention.qkv.weight
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
        if kind == "int8":
            quantize_linears(hart, smallest=16)
        else:
            hart.to(getattr(torch, kind))
        remark = base_remark(hart, tmp_path, "models/mine")
        assert (remark is not None) == others
        assert remark is None or "trained on other weights (runs/base) than models/mine has" in remark
    for damaged in ('{"layers": {"blocks.0.attention.qkv": [1.0]}}', '{"layers": {"blo', '{"layers": 1}'):
        (tmp_path / BASE_FILE).write_text(damaged)
        with pytest.raises(HartError, match=rf"{BASE_FILE}.*: delete this file"):
            base_remark(hart, tmp_path)
    for name in ("of another model", "blocks", ""):
        (tmp_path / BASE_FILE).write_text(json.dumps({"layers": {name: [1.0] * 8}}))
        assert base_remark(hart, tmp_path) is None
    (tmp_path / BASE_FILE).unlink()
    assert base_remark(hart, tmp_path) is None


def test_a_pipeline_warns_of_an_adapter_of_other_weights_each_by_itself(tmp_path: Path) -> None:
    config = tiny_text_config(width=256, heads=4, depth=1, mlp="gelu")  # packed where the processor gains by it
    tokenizer, hart = tiny_model(config)
    save_lora(adapted(config), tmp_path / "own", base_model="runs/base")
    pipe = HartPipeline(config, tokenizer, hart, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.load_lora(tmp_path / "own", 5.0)
        pipe.load_lora(tmp_path / "own")  # the weights are others by now
    trained = add_lora(HartPipeline.from_config(config).hart, rank=2, alpha=4, generator=torch.Generator())
    save_lora(trained, tmp_path / "other", base_model="runs/other")
    with pytest.warns(AdapterWarning, match="runs/other") as caught:
        pipe.load_lora(tmp_path / "other")
    assert caught[0].filename == __file__


def test_words_that_an_adapter_may_know_are_no_reason_for_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_text_config()
    pipe = HartPipeline.from_config(config, device="cpu")
    monkeypatch.setattr(pipe.text_encoder, "reading", lambda _: [Reading(others={"inked": "", "yacht": "boat"})])

    def noted() -> list[str]:
        with pytest.warns(PromptWarning) as caught:
            pipe.encode_prompt("a yacht, inked")
        return [str(warning.message) for warning in caught]

    assert sorted("inked" in said for said in noted()) == [False, True]
    save_lora(
        add_lora(HartPipeline.from_config(config).hart, rank=2, alpha=2, generator=torch.Generator()),
        tmp_path,
        base_model="random",
    )
    pipe.load_lora(tmp_path)
    assert ["yacht" in said for said in noted()] == [True]
    assert len(PipelineEngine(pipe).remarks("a yacht, inked")) == 1, "nor for one of the server's"
    pipe.unload_lora()
    assert len(noted()) == 2


def test_an_adapter_of_no_layer_of_the_model_is_refused(tmp_path: Path) -> None:
    save_lora(adapted(tiny_text_config(), ("mlp",)), tmp_path, base_model="runs/base")
    with pytest.raises(HartError, match=r"does not fit this model: .*not found in the base model"):
        merge_lora(tiny_model(tiny_class_config())[1], tmp_path)


def test_a_folder_beside_the_adapter_is_told_from_it(tmp_path: Path) -> None:
    hart = tiny_model(tiny_text_config())[1]
    save_lora(adapted(tiny_text_config()), tmp_path / "run" / "model", base_model="runs/base")
    with pytest.raises(HartError, match=f"the one of this training run is in {tmp_path / 'run' / 'model'}"):
        merge_lora(hart, tmp_path / "run")
    (tmp_path / "hart.safetensors").touch()
    with pytest.raises(HartError, match="holds a model, not a LoRA adapter"):
        merge_lora(hart, tmp_path)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    hart = tiny_model(tiny_text_config())[1]
    with pytest.raises(HartError, match=r"no LoRA adapter here: expected adapter_config.json"):
        merge_lora(hart, tmp_path)
    with pytest.raises(HartError, match=r"owner/adapter: no such folder: .*download one of a hub first"):
        merge_lora(hart, "owner/adapter")
    save_lora(adapted(tiny_text_config()), tmp_path, base_model="runs/base")
    content = (tmp_path / ADAPTER_FILE).read_bytes()
    (tmp_path / ADAPTER_FILE).write_bytes(content[:-10])
    with pytest.raises(HartError, match=r"adapter_model.safetensors: not a readable"):
        merge_lora(hart, tmp_path)
    values = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    for text, named in (
        ("{", "is not JSON"),
        ("[]", "does not hold a JSON object"),
        (values | {"peft_type": "IA3"}, "'IA3'"),
    ):
        (tmp_path / ADAPTER_CONFIG).write_text(text if isinstance(text, str) else json.dumps(text))
        with pytest.raises(HartError, match=named):
            merge_lora(hart, tmp_path)


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    generator = torch.Generator()
    hart = tiny_model(tiny_text_config())[1]
    with pytest.raises(HartError, match="at least 1"):
        add_lora(hart, rank=0, alpha=1, generator=generator)
    for targets in ((), ("mlp", "head"), "mlp"):
        with pytest.raises(HartError, match=r"LoRA targets .*: give one or more of attention, mlp, word_embed"):
            add_lora(hart, rank=1, alpha=1, generator=generator, targets=targets)  # type: ignore[arg-type]
    with pytest.raises(HartError, match="has no LoRA adapters: add_lora"):
        save_lora(hart, tmp_path, base_model="runs/base")
    add_lora(hart, rank=1, alpha=1, generator=generator)
    with pytest.raises(HartError, match="already has LoRA adapters"):
        add_lora(hart, rank=1, alpha=1, generator=generator)
    with pytest.raises(HartError, match="already has LoRA adapters"):
        merge_lora(hart, tmp_path)
    hart = tiny_model(tiny_text_config())[1]
    with pytest.raises(HartError, match="finite"):
        merge_lora(hart, tmp_path, float("nan"))
    save_lora(adapted(tiny_text_config()), tmp_path, base_model="runs/base")
    with pytest.raises(HartError, match=r"merged at scale 1e\+300, it takes weights out of the range"):
        merge_lora(hart, tmp_path, 1e300)


def test_a_missing_peft_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(HartError, match=r"pip install 'hart-image\[lora\]'"):
        merge_lora(tiny_model(tiny_text_config())[1], tmp_path)


def test_an_adapter_holds_the_chosen_layers_only(tmp_path: Path) -> None:
    save_lora(adapted(tiny_text_config(), ("attention",)), tmp_path, base_model="runs/base")
    tensors = load_file(tmp_path / ADAPTER_FILE)
    assert all(name.startswith("base_model.model.blocks.") and ".attention." in name for name in tensors)
