"""Model folders with wrong content: each is one line that names the file, soon, and takes no memory."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hart import HartError, HartPipeline
from hart.checkpoint.loading import load_model
from hart.checkpoint.lora import ADAPTER_CONFIG, ADAPTER_FILE, add_lora, merge_lora, save_lora
from hart.checkpoint.storage import read_pickle
from hart.checkpoint.verification import verify
from helpers import tiny_model, tiny_text_config
from mutations import damage_file

GOLDEN = Path(__file__).parent.parent / "golden"
NAME = "transformer.word_embed.weight"


@pytest.fixture
def folder(text_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(text_model, tmp_path / "model"))


def changed(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def generate(folder: Path) -> None:
    HartPipeline.from_pretrained(folder, device="cpu")("a cat")


TEXT = "text_encoder.safetensors", "embed_proj.weight"


@pytest.mark.parametrize(
    ("file", "name", "dtype"),
    [
        *(("hart.safetensors", NAME, dtype) for dtype in (torch.int8, torch.int64, torch.bool, torch.complex64)),
        *(("hart.safetensors", NAME, dtype) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)),
        *((*TEXT, dtype) for dtype in (torch.int8, torch.int64)),
    ],
    ids=str,
)
def test_weights_of_other_types_are_refused(folder: Path, file: str, name: str, dtype: torch.dtype) -> None:
    changed(folder / file, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    kind = str(dtype).removeprefix("torch.").split("_")[0]
    refusal = rf"{file}: .*{name} holds (?i:{kind[:1]}\S*), not float32 or bfloat16"
    if dtype in (torch.int8, torch.float8_e4m3fn):  # which stored models may have, with a scale a row
        refusal = rf"{file}: .*missing .*{name}_scale"
    with pytest.raises(HartError, match=refusal):
        generate(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_weights_of_any_floating_type_are_read(folder: Path, dtype: torch.dtype) -> None:
    changed(folder / "hart.safetensors", lambda tensors: tensors.update({NAME: tensors[NAME].to(dtype)}))
    generate(folder)


@pytest.mark.parametrize(("dtype", "number"), [(torch.float32, float("nan")), (torch.float16, -float("inf"))])
def test_weights_that_are_not_finite_are_refused(folder: Path, dtype: torch.dtype, number: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[NAME] = tensors[NAME].to(dtype)
        tensors[NAME][0, 0] = number

    changed(folder / "hart.safetensors", spoil)
    with pytest.raises(HartError, match=rf"hart.safetensors: {NAME} holds numbers that are not finite"):
        generate(folder)


def test_large_weights_are_finite(folder: Path) -> None:
    changed(folder / "hart.safetensors", lambda tensors: tensors[NAME].fill_(3e38))  # whose sum is not
    load_model(folder)


SIZES = [
    ("transformer", "depth", 500, "missing transformer.blocks"),
    ("transformer", "width", 2**16, "the model takes"),
    ("text_encoder", "embedding_width", 2**16, "the model takes"),
    ("text_encoder", "vocabulary_size", 2**20, "word pieces"),
    ("text_encoder", "tokens", 10**12, "tokens must be at most"),
    ("tokenizer", "channel_multipliers", [64] * 12, "the model takes|missing"),
    ("diffusion", "training_steps", 10**9, "training_steps must be at most"),
]


@pytest.mark.parametrize(("part", "field", "value", "said"), SIZES, ids=[f"{s[0]}.{s[1]}={s[2]}"[:40] for s in SIZES])
def test_a_configuration_that_asks_for_more_than_the_files_hold(
    folder: Path, part: str, field: str, value: Any, said: str
) -> None:
    values = json.loads((folder / "config.json").read_text())
    values[part][field] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(HartError, match=said):
        generate(folder)


def test_weights_need_memory_that_is_free(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    config = tiny_text_config(width=2**16, heads=2**10, depth=50)
    with pytest.raises(HartError, match=r"^weights in float32 take .* GB of memory, and .* GB are free: choose"):
        HartPipeline.from_config(config, device="cpu")
    monkeypatch.setattr("hart.devices.free_memory", lambda _: 1000)
    with pytest.raises(HartError, match=r"tokenizer.safetensors: the weights take .* GB of memory"):
        generate(folder)


WORDS = "word_pieces.json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model["vocab"].update(a=10**6), "cuts words differently"),
        (lambda model: model["vocab"].update(a="3"), "not a tokenizer file"),
        (lambda model: model["vocab"].update(new=len(model["vocab"])), "word pieces and the configuration says"),
        (lambda model: model["vocab"].clear(), "starts with"),
        (lambda model: model.update(vocab=[["a", 0]]), "not a tokenizer file"),
        (lambda model: model.update(unk_token="a"), "cuts words differently"),
        (lambda model: model.update(type="BPE"), "not a tokenizer file|cuts words differently"),
    ],
)
def test_word_pieces_that_are_not_the_encoders(folder: Path, change: Callable[[Any], object], said: str) -> None:
    values = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    change(values["model"])
    (folder / WORDS).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(HartError, match=rf"(?s){said}"):
        generate(folder)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "..", "", "C:\\x.bin", "x\0.bin", 3])
def test_shards_lie_in_the_folder(tmp_path: Path, name: Any) -> None:
    folder = Path(shutil.copytree(GOLDEN / "t2i", tmp_path / "model"))
    (folder / "llm" / "ema_model.bin").rename(tmp_path / "x.bin")
    index = {"weight_map": {"pos_start": name}}
    (folder / "llm" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for file in (folder / "llm").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(HartError, match=r"index\.json: .*(is not the name of a file in|no weight_map)"):
        load_model(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "t2i-qknorm-adaln", tmp_path / "model"))
    (file, *_) = sorted((folder / "tokenizer").glob("*.safetensors"))
    shutil.copy(file, folder / "tokenizer" / "another.safetensors")
    with pytest.raises(HartError, match=r"is also in another file of .*tokenizer"):
        load_model(folder)


def pickled() -> dict[str, Any]:
    weight = torch.ones(2, 3)
    return {
        "sparse": ({"w": weight.to_sparse()}, "'w' is a sparse"),
        "meta": ({"w": weight.to("meta")}, "'w' is a tensor without all"),
        "expanded": ({"w": torch.ones(1).expand(10**12)}, "'w' is a tensor without all"),
        "int-keyed": ({0: weight}, "0 is not a name"),
        "nested": ({"state": {"w": weight}}, "'state' is dict"),
        "number": ({"w": 3}, "'w' is int"),
        "list": ([weight], "not list"),
        "tensor": (weight, "not Tensor"),
        "module": (torch.nn.Linear(2, 2), r"holds torch\.nn\.modules\.linear\.Linear, which is not a tensor"),
        "path": ({"w": Path("x")}, r"holds pathlib\.[\w.]+, which is not a tensor"),
    }


@pytest.mark.parametrize("kind", pickled())
def test_pickles_of_anything_but_tensors(tmp_path: Path, kind: str) -> None:
    content, said = pickled()[kind]
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(HartError, match=rf"w\.bin: .*{said}.*: ask for the weights as safetensors") as error:
        read_pickle(tmp_path / "w.bin")
    assert "weights_only" not in str(error.value), "torch's advice is to run what is in the file"


ADAPTER = [
    ("r", 10**9, "r must be at most 65,536"),
    ("r", "2", "r: expected a whole number"),
    ("lora_alpha", float("nan"), "lora_alpha must be a finite number"),
    ("target_modules", ["(a+)+$"], r"target_modules\[0\] must be the name of a layer"),
    ("target_modules", [], "target_modules: names no layer"),
    ("rank_pattern", {"x": "y"}, r"rank_pattern\.x: expected a whole number"),
    ("modules_to_save", ["head"], "'modules_to_save' is"),
    ("bias", "all", "'bias' is 'all'"),
    ("fan_in_fan_out", True, "'fan_in_fan_out' is True"),
    ("init_lora_weights", "pissa", "init_lora_weights"),
    ("peft_type", ["LORA"], "only LORA"),
    ("base_model_name_or_path", 3, "base_model_name_or_path: expected text"),
    # in training these would also act on biases, which are no part of the layers here
    ("use_dora", True, "'use_dora' is True"),
    ("lora_bias", True, "'lora_bias' is True"),
    ("unheard_of", {"a": 1}, "'unheard_of' is"),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    hart = add_lora(tiny_model(tiny_text_config())[1], rank=2, alpha=2, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("adapter")
    save_lora(hart, folder, base_model="runs/base")
    return folder


@pytest.mark.parametrize(("field", "value", "said"), ADAPTER, ids=[f"{a[0]}={a[1]}"[:40] for a in ADAPTER])
def test_adapters_with_wrong_settings(adapter: Path, tmp_path: Path, field: str, value: Any, said: str) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "a"))
    values = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(values | {field: value}))
    with pytest.raises(HartError, match=rf"{ADAPTER_CONFIG}: .*{said}"):
        merge_lora(tiny_model(tiny_text_config())[1], folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda t: t.to(torch.int8), "holds int8, not float32 or"), (lambda t: t / 0 * 0, "not finite")],
)
def test_adapters_with_wrong_numbers(
    adapter: Path, tmp_path: Path, change: Callable[[Tensor], Tensor], said: str
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "a"))
    changed(folder / ADAPTER_FILE, lambda tensors: tensors.update({k: change(t) for k, t in tensors.items()}))
    with pytest.raises(HartError, match=said):
        merge_lora(tiny_model(tiny_text_config())[1], folder)


@pytest.mark.parametrize("kind", ["text", "lora", "t2i", "var-c2i"])
def test_damage_at_random_is_one_line_or_none(kind: str, text_model: Path, adapter: Path, tmp_path: Path) -> None:
    source = {"text": text_model, "lora": adapter}.get(kind, GOLDEN / kind)
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    lines = []
    for seed in range(12):
        rng = random.Random(zlib.crc32(f"{kind} {seed}".encode()))
        folder = Path(shutil.copytree(source, tmp_path / str(seed)))
        damage_file(folder / rng.choice(files), rng)
        try:
            match kind:
                case "text":
                    generate(folder)
                case "lora":
                    merge_lora(tiny_model(tiny_text_config())[1], folder)
                case _:
                    verify(folder)
        except HartError as error:
            lines.append(str(error))
    assert len(lines) > 5
    assert all(str(tmp_path) in line and len(line) < 3000 for line in lines)
