"""`hart reconstruct`, `info`, `convert` and `verify`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from command_line import outputs, refused, run
from hart import HartPipeline
from hart.checkpoint.loading import load_model, load_tokenizer, save_tokenizer
from hart.checkpoint.storage import fingerprint, read_safetensors, save_module
from hart.checkpoint.verification import CASE_FILE, GOLDEN_FILE
from hart.text_encoder.base import RandomTextFeatures
from hart.text_encoder.compact import CompactTextEncoder
from hart.text_encoder.known_words import KnownWords
from helpers import SCALES, store_adapter

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ["t2i-rounds", "var-c2i"]  # sharded and single files; that all convert exactly is tested where they are read


def test_reconstruct_writes_three_images_side_by_side_and_prints_psnr(text_model: Path, tmp_path: Path) -> None:
    for name in ("one.jpg", "two.webp"):
        Image.effect_noise((30, 20), 60).convert("RGB").save(tmp_path / name)
    result = run(
        "reconstruct", tmp_path / "one.jpg", tmp_path / "two.webp", "--model", text_model, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        path = re.fullmatch(r"(\S+\.png)  discrete \d+\.\d\d dB  hybrid \d+\.\d\d dB", line)
        assert path is not None
        with Image.open(path[1]) as image:
            assert image.width > 3 * 8 > image.height


def test_reconstruct_takes_a_tokenizer_alone(text_model: Path, tmp_path: Path) -> None:
    image = tmp_path / "one.png"
    Image.effect_noise((30, 20), 60).convert("RGB").save(image)
    save_tokenizer(tmp_path / "tokenizer", load_tokenizer(text_model))
    (tmp_path / "copied").mkdir()
    for name in ("config.json", "tokenizer.safetensors"):
        shutil.copy(text_model / name, tmp_path / "copied")
    shown = []
    for model in (text_model, tmp_path / "tokenizer", tmp_path / "copied"):
        out = tmp_path / f"of {model.name}"
        result = run("reconstruct", image, "--model", model, "--device", "cpu", "--out", out)
        assert result.exit_code == 0, result.output
        (file,) = out.iterdir()
        with Image.open(file) as found:
            shown.append((result.stdout.replace(str(file), ""), found.tobytes()))
    assert shown[0] == shown[1] == shown[2]
    said = refused(run("reconstruct", image, "--model", tmp_path, "--out", tmp_path / "out"))
    assert "expected config.json and tokenizer.safetensors (a tokenizer alone), config.json and hart" in said


@pytest.mark.parametrize("multiplied", [True, False])
def test_every_command_says_that_a_number_type_is_slow_here(
    multiplied: bool, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dict.fromkeys(("avx512_bf16", "amx_bf16"), multiplied)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    slow = "note: bfloat16 takes several times as long as float32 on this processor\n"
    for command in (
        ("generate", "a cat"),
        ("generate", "a cat", "--tiled"),
        ("reconstruct", tmp_path / "one.png"),
        ("evaluate", "cost", "--batch-size", 1, "--warm-up", 0, "--repeats", 1, "--resamples", 0),
    ):
        result = run(*command, "--model", text_model, "--device", "cpu", "--dtype", "bf16", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert result.stderr.count(slow) == (not multiplied)
    exact = run("generate", "a cat", "--model", text_model, "--dtype", "fp32", "--device", "cpu", "--out", tmp_path)
    assert exact.exit_code == 0 and exact.stderr == ""


def test_info_counts_what_the_model_holds(text_model: Path) -> None:
    result = run("info", text_model)
    assert result.exit_code == 0
    assert "1, 4, 9, 16" in result.stdout  # tokens per scale
    assert ", ".join(map(str, SCALES)) in result.stdout
    model = load_model(text_model)
    assert model.config.text_encoder is not None
    encoder = CompactTextEncoder.load(model.config.text_encoder, model.folder)
    held = sum(p.numel() for module in (model.tokenizer, model.hart, encoder) for p in module.parameters())
    assert f"{held:,}" in result.stdout
    assert "not counted" not in result.stdout
    assert "MACs" in result.stdout


def test_info_knows_sizes_without_weights() -> None:
    released = " ".join(run("info", "hart-0.7b-256").stdout.split())
    assert "256 x 256 px" in released
    assert "not counted" in released
    assert "bfloat16 packed on CPU: " in released  # whether this processor packs its layers, or why not
    sizes = "sizes without weights are: hart-0.7b-256, hart-0.7b-512, "
    random = ("generate", "a cat", "--model", "hart-0.7b-257", "--random-weights")
    for command in (("info", "hart"), ("benchmark", "hart-0.7b-257"), random):
        assert sizes in refused(run(*command))
    for command in (random[:-1], ("convert", "hart-0.7b-257", "none")):
        said = refused(run(*command))
        assert said.endswith("unknown model 'hart-0.7b-257': no folder, no hub id, and the shipped models are: emoji")


@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_computes_the_same(case: str, tmp_path: Path) -> None:
    assert outputs(run("convert", GOLDEN / case, tmp_path / "own")) == [tmp_path / "own"]
    for name in (GOLDEN_FILE, CASE_FILE):
        shutil.copy(GOLDEN / case / name, tmp_path / "own")
    result = run("verify", tmp_path / "own")
    assert result.exit_code == 0, result.output
    images = []
    for folder in (GOLDEN / case, tmp_path / "own"):
        text = load_model(folder).config.transformer.text
        encoder = None if text is None else RandomTextFeatures(text, seed=0)
        pipe = HartPipeline.from_pretrained(str(folder), device="cpu", text_encoder=encoder)
        images.append(pipe("a cat" if text is not None else 1).images[0].tobytes())
    assert images[0] == images[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_convert_stores_half_and_takes_the_text_encoder_along(text_model: Path, tmp_path: Path, dtype: str) -> None:
    outputs(run("convert", text_model, tmp_path / "own", "--dtype", dtype))
    weights = list((tmp_path / "own").glob("*.safetensors"))
    assert len(weights) == 3
    assert {value.dtype for file in weights for value in read_safetensors(file).values()} == {getattr(torch, dtype)}
    assert len(outputs(run("generate", "cat", "--model", tmp_path / "own", "--out", tmp_path))) == 1


def test_a_merged_model_says_nothing_of_words_that_the_adapter_may_have_learned(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr("hart.text_encoder.known_words.LEAST_COSINE", 2)  # no name is near
    base, merged, stored, adapter = (tmp_path / name for name in ("base", "merged", "stored", "adapter"))
    shutil.copytree(text_model, base)
    KnownWords.of(["a cat"], ("cat",)).save(base)
    store_adapter(load_model(base).hart, adapter, alpha=2, value=0.2)
    outputs(run("convert", base, merged, "--lora", adapter))
    pipe = HartPipeline.from_pretrained(base, device="cpu")
    pipe.load_lora(adapter)
    pipe.save_pretrained(stored)
    for model, notes in ((base, 1), (merged, 0), (stored, 0)):
        result = run("generate", "a xqzkw", "--model", model, "--out", tmp_path / "out")
        assert result.stderr.count('did not learn "xqzkw"') == notes


def test_convert_takes_a_tokenizer_whose_decoder_alone_differs(text_model: Path, tmp_path: Path) -> None:
    """The transformer knows no other codes."""
    tokenizer = load_tokenizer(text_model)
    with torch.no_grad():
        tokenizer.decoder.conv_out.bias.add_(0.1)
    save_tokenizer(tmp_path / "decoder", tokenizer)
    with torch.no_grad():
        tokenizer.quantizer.codebook.weight.add_(0.1)
    save_tokenizer(tmp_path / "codes", tokenizer)
    outputs(run("convert", text_model, tmp_path / "own", "--tokenizer", tmp_path / "decoder"))
    written = load_model(tmp_path / "own")
    assert fingerprint(written.tokenizer) == fingerprint(load_tokenizer(tmp_path / "decoder"))
    assert fingerprint(written.hart) == fingerprint(load_model(text_model).hart)
    refusal = refused(run("convert", text_model, tmp_path / "other", "--tokenizer", tmp_path / "codes"))
    assert "other codes" in refusal and "decoder_only" in refusal


def test_convert_overwrites_no_model(text_model: Path, class_model: Path, tmp_path: Path) -> None:
    before = (text_model / "config.json").read_bytes()
    assert "already holds a model" in refused(run("convert", class_model, text_model))
    assert (text_model / "config.json").read_bytes() == before
    assert "unknown dtype" in refused(run("convert", class_model, tmp_path / "own", "--dtype", "int4"))


def test_verify_prints_a_line_a_quantity_and_exits_1_where_one_differs(tmp_path: Path) -> None:
    case = GOLDEN / "var-c2i"
    good = run("verify", case)
    assert good.exit_code == 0
    assert all(line.startswith("ok") and "tolerance" in line for line in good.stdout.splitlines())
    assert any("teacher.logits  largest difference" in line for line in good.stdout.splitlines())

    outputs(run("convert", case, tmp_path / "own"))
    for name in (GOLDEN_FILE, CASE_FILE):
        shutil.copy(case / name, tmp_path / "own")
    model = load_model(tmp_path / "own")
    model.hart.transformer.head.linear.bias.data[0] += 0.01
    save_module(tmp_path / "own" / "hart.safetensors", model.hart)
    bad = run("verify", tmp_path / "own")
    assert bad.exit_code == 1
    failed = [line for line in bad.stdout.splitlines() if line.startswith("FAIL")]
    assert any("teacher.logits" in line for line in failed)
    assert not any("tokenizer" in line for line in failed)
    assert "teacher.logits" in bad.stderr and "Traceback" not in bad.stderr


def test_verify_names_keys_that_it_cannot_compute(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for file in (GOLDEN / "var-c2i").iterdir():
        shutil.copy(file, tmp_path)
    golden = read_safetensors(tmp_path / GOLDEN_FILE)
    save_file(golden | {"teacher.dreams": torch.zeros(1)}, tmp_path / GOLDEN_FILE)
    result = run("verify", tmp_path)
    assert result.exit_code == 1
    assert "teacher.dreams" in result.stderr
    (tmp_path / GOLDEN_FILE).unlink()
    assert f"has no {GOLDEN_FILE}" in refused(run("verify", tmp_path))
    assert "no such folder" in refused(run("verify", tmp_path / "elsewhere"))
