"""Opening models: three layouts, round trips between them, and every fault with a name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hart import HartPipeline
from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.loading import (
    LoadedModel,
    load_model,
    load_tokenizer,
    resolve_model,
    save_model,
    save_tokenizer,
)
from hart.checkpoint.storage import fingerprint, read_pickle, read_safetensors, write_safetensors
from hart.config import ConfigError, HartConfig
from hart.errors import HartError
from helpers import random_context, random_tensor, same_weights, tiny_class_config, tiny_model, tiny_text_config

GOLDEN = Path(__file__).parent.parent / "golden"
PUBLISHED = ["t2i", "t2i-qknorm-adaln", "t2i-rounds", "var-c2i"]


def states(model: LoadedModel) -> dict[str, torch.Tensor]:
    return {**model.tokenizer.state_dict(), **model.hart.state_dict()}


def equal(first: LoadedModel, second: LoadedModel) -> bool:
    return same_weights(states(first), states(second))


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the golden checkpoint that a test names by indirect parametrisation, to damage."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "model"))


def of(case: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("copied", [case], indirect=True, ids=[case])


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_layouts_convert_to_ours_exactly(case: str, tmp_path: Path) -> None:
    published = load_model(GOLDEN / case)
    save_model(tmp_path / "own", published.config, published.tokenizer, published.hart)
    own = load_model(tmp_path / "own")
    assert own.config == published.config
    assert equal(own, published)
    assert not own.hart.training
    assert not own.tokenizer.training


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["text", "class"])
def test_our_layout_comes_back_exactly(config: HartConfig, tmp_path: Path) -> None:
    tokenizer, hart = tiny_model(config)
    save_model(tmp_path, config, tokenizer, hart)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    assert loaded.folder == tmp_path
    assert equal(loaded, LoadedModel(config, tokenizer, hart, tmp_path))


def test_opening_reads_and_does_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("opening a model hashes nothing, draws nothing and runs no layer")

    monkeypatch.setattr(hashlib, "sha256", never)
    monkeypatch.setattr(nn.Module, "__call__", never)
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, never)
    pipe = HartPipeline.from_pretrained("emoji", device="cpu")
    assert pipe.text_encoder.config.kind == "compact"


@of("t2i")
def test_averaged_weights_are_preferred(copied: Path) -> None:
    averaged = load_model(copied)
    encoder = averaged.config.text_encoder
    assert encoder is not None and (encoder.kind, encoder.instruction) == ("qwen2", True)
    (copied / "llm" / "ema_model.bin").unlink()
    plain = load_model(copied)
    assert averaged.config == plain.config
    assert not equal(averaged, plain)


@of("t2i-rounds")
def test_weights_that_are_not_all_there_are_named(copied: Path) -> None:
    index = copied / "llm" / "pytorch_model.bin.index.json"
    (copied / "llm" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00002\.bin"):
        load_model(copied)
    index.write_text("{}", encoding="utf-8")
    with pytest.raises(HartError, match=index.name):
        load_model(copied)
    for file in (copied / "llm").glob("*model*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"llm: no weights: expected ema_model\.bin, \*\.safetensors"):
        load_model(copied)


@of("t2i-qknorm-adaln")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("word_embed.bias"), r"llm/model\.safetensors.*missing word_embed\.bias$"),
        (lambda s: s.update(surprise=torch.zeros(1)), r"model\.safetensors.*unexpected surprise"),
        (lambda s: s.update({"head.bias": torch.zeros(3)}), r"llm/model\.safetensors.*: head\.bias is \(3,\)"),
    ],
    ids=["missing", "unexpected", "misshaped"],
)
def test_published_tensors_that_do_not_fit_are_named(copied: Path, change: Any, message: str) -> None:
    path = copied / "llm" / "model.safetensors"
    state = read_safetensors(path)
    change(state)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(copied)


@of("t2i-qknorm-adaln")
@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("llm/config.json", "embed_dim", "wide"),
        ("llm/config.json", "patch_nums", 16),
        ("llm/config.json", "num_sampling_steps", "many"),
        ("llm/config.json", "use_cross_attn", True),
        ("tokenizer/config.json", "ch", None),
        ("tokenizer/config.json", "v_patch_nums", [3, 2]),
    ],
)
def test_a_wrong_published_field_is_an_error(copied: Path, file: str, field: str, value: Any) -> None:
    values = json.loads((copied / file).read_text(encoding="utf-8"))
    values[field] = value
    (copied / file).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=file):
        load_model(copied)


@of("var-c2i")
def test_var_sizes_are_read_off_its_tensors(copied: Path) -> None:
    case = json.loads((copied / "case.json").read_text(encoding="utf-8"))
    config = load_model(copied).config
    assert config.transformer.scales == tuple(case["patch_nums"])
    assert config.transformer.classes is not None
    assert config.transformer.classes.num_classes == case["num_classes"]
    assert (config.transformer.width, config.transformer.depth) == (case["embed_dim"], case["depth"])
    assert config.transformer.heads == case["num_heads"]
    assert config.tokenizer.channel_multipliers == tuple(case["ch_mult"])
    assert not config.hybrid


@torch.no_grad()
@of("var-c2i")
def test_var_with_shared_adaln_is_the_same_as_a_linear_layer_a_block(copied: Path) -> None:
    """SiLU and one linear layer for all blocks plus a table each: a block's own layer whose bias holds its table."""
    state, generator = read_pickle(copied / "var.pth"), torch.Generator().manual_seed(0)
    depth, width = 3, 48
    weight = torch.randn(6 * width, width, generator=generator) / width
    bias = torch.randn(6 * width, generator=generator)
    tables = torch.randn(depth, 1, 1, 6, width, generator=generator)
    for i in range(depth):
        state[f"blocks.{i}.ada_lin.1.weight"] = weight
        state[f"blocks.{i}.ada_lin.1.bias"] = bias + tables[i].flatten()
    torch.save(state, copied / "var.pth")
    reference = load_model(copied)
    for i in range(depth):
        del state[f"blocks.{i}.ada_lin.1.weight"], state[f"blocks.{i}.ada_lin.1.bias"]
        state[f"blocks.{i}.ada_gss"] = tables[i]
    state |= {"shared_ada_lin.1.weight": weight, "shared_ada_lin.1.bias": bias}
    torch.save(state, copied / "var.pth")
    shared = load_model(copied)
    assert (reference.config.transformer.modulation, shared.config.transformer.modulation) == ("linear", "shared")
    context, teacher = random_context(shared.config, 2), random_tensor(2, 129, 8)
    outputs = [model.hart.transformer(context, teacher) for model in (reference, shared)]
    torch.testing.assert_close(outputs[1].hidden, outputs[0].hidden, rtol=1e-4, atol=1e-4)
    logits = [
        model.hart.transformer.logits(output.hidden, output.conditioning)
        for model, output in zip((reference, shared), outputs, strict=True)
    ]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)


@of("var-c2i")
def test_var_with_an_unknown_schedule_asks_for_it(copied: Path) -> None:
    (copied / "case.json").unlink()
    with pytest.raises(ConfigError, match="give patch_nums in"):
        load_model(copied)


@of("var-c2i")
def test_var_without_its_tokenizer_is_an_error(copied: Path) -> None:
    (copied / "vae.pth").unlink()
    with pytest.raises(CheckpointError, match=r"expected one file vae\*\.pth, found 0"):
        load_model(copied)


class RunsCode:
    """A pickle of this calls `os.system` when it is read without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@of("var-c2i")
def test_code_in_a_pickle_is_refused_and_not_run(copied: Path) -> None:
    trace = copied / "was-run"
    torch.save({"weight": RunsCode(f"touch {trace}")}, copied / "var.pth")
    with pytest.raises(CheckpointError, match=r"var\.pth"):
        load_model(copied)
    assert not trace.exists()


def test_damaged_pickles_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    torch.save({"weight": torch.zeros(40, 40)}, path)
    content = path.read_bytes()
    cuts = [content[:length] for length in (0, 1, 100, len(content) // 2, len(content) - 10)]
    for damaged in [*cuts, b"\x80\x02.", b"not a pickle", bytes(range(256)), b"\x80\x02]q\x00."]:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"weights\.bin"):
            read_pickle(path)


def test_an_interrupted_save_is_not_taken_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_text_config()
    tokenizer, hart = tiny_model(config)
    calls: list[int] = []
    real = os.fsync

    def fail_at_the_second_file(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # and no folder
            calls.append(descriptor)
        if len(calls) == 2:
            raise OSError("no space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_at_the_second_file)
    with pytest.raises(OSError, match="no space"):
        save_model(tmp_path, config, tokenizer, hart)
    with pytest.raises(CheckpointError, match="no model here"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "holds a LoRA adapter, not a model: .*--lora"),
        (["config.json", "tokenizer.safetensors"], "holds a tokenizer alone"),
        (["recipe.json", "model/config.json"], "what a training run made is in .*model$"),
    ],
)
def test_a_folder_of_something_else_says_what_it_holds(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


def test_unknown_names_list_the_shipped_models() -> None:
    with pytest.raises(CheckpointError, match=r"unknown model 'emojis'.*shipped models are"):
        resolve_model("emojis")
    with pytest.raises(CheckpointError, match=r"model '\./no/such': there is no such folder, and a hub id is"):
        resolve_model("./no/such")
    with pytest.raises(CheckpointError, match="model '': give a name, a folder or a hub id"):
        resolve_model("")


def test_a_shipped_name_means_that_model_and_a_path_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = fingerprint(load_tokenizer("emoji"))
    monkeypatch.chdir(tmp_path)
    save_tokenizer("emoji", tiny_model(tiny_text_config())[0])
    assert fingerprint(load_tokenizer("emoji")) == shipped != fingerprint(load_tokenizer("./emoji"))
    assert resolve_model("emoji") != resolve_model("./emoji")


def test_paths_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer, _ = tiny_model(tiny_text_config())
    save_tokenizer("tokenizer", tokenizer)
    assert fingerprint(load_tokenizer("tokenizer")) == fingerprint(tokenizer)
    write_safetensors("one.safetensors", {"one": torch.ones(1)})
    assert read_safetensors("one.safetensors").keys() == {"one"}
    for missing in ("emoji", tmp_path / "no"):
        with pytest.raises(HartError, match=f"{missing}: no such folder"):
            load_model(missing)
