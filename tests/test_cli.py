"""The command `hart` through its entry point: files written, pictures drawn again, and one line for every error."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from command_line import refused, run
from hart import HartPipeline, __version__
from hart.checkpoint.loading import load_model
from hart.checkpoint.storage import read_safetensors, save_module
from hart.config import HartConfig
from hart.data.emoji import EmojiSummary
from hart.data.encoded import EncodedSet
from hart.lora import add_lora, save_lora
from hart.picture_metadata import read_record
from hart.text_encoder.compact import CompactTextEncoder
from hart.text_encoder.random_features import RandomTextFeatures
from hart.verification import CASE_FILE, GOLDEN_FILE
from helpers import SCALES
from models import save_tiny_class_model, save_tiny_text_model
from picture_files import write_captioned_folder

GOLDEN = Path(__file__).parent / "golden"
RECIPES = Path(__file__).parent.parent / "recipes" / "emoji"
CASES = ["t2i-rounds", "var-c2i"]  # sharded and single files; that all convert exactly is tested where they are read


def drawn(result: Result) -> list[Path]:
    """The files that a successful command printed."""
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no terminal: no bars, no notes
    return [Path(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def class_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_class_model(tmp_path_factory.mktemp("class"))


# --- generate


def test_generate_writes_one_png_a_picture_named_after_prompt_and_seed(text_model: Path, tmp_path: Path) -> None:
    paths = drawn(
        run("generate", "A red apple!", "a cat", "--model", text_model, "-n", 2, "--seed", 5, "--out", tmp_path)
    )
    names = ["000-a-red-apple-5.png", "001-a-red-apple-6.png", "002-a-cat-7.png", "003-a-cat-8.png"]
    assert paths == [tmp_path / name for name in names]
    assert sorted(tmp_path.iterdir()) == paths
    expected = HartPipeline.from_pretrained(str(text_model), device="cpu")(
        ["A red apple!", "a cat"], images_per_prompt=2, seed=5
    )
    for path, image in zip(paths, expected.images, strict=True):
        with Image.open(path) as written:
            assert written.tobytes() == image.tobytes()


def test_pictures_carry_prompt_seed_model_and_settings(text_model: Path, tmp_path: Path) -> None:
    (path,) = drawn(run("generate", "café", "--model", text_model, "--seed", 9, "--guidance", 2, "--top-k", 0,
                        "--top-p", 0.9, "--no-smooth", "--rounds", 2, "--diffusion-steps", 3,
                        "--discrete-only", "--size", 8, "--device", "cpu", "--dtype", "bf16",
                        "--out", tmp_path))  # fmt: skip
    with Image.open(path) as image:
        chunks = image.text  # type: ignore[attr-defined]
    assert chunks["prompt"] == "café"
    assert chunks["seed"] == "9"
    assert chunks["model"] == str(text_model)
    assert chunks["Software"] == f"hart {__version__}"
    assert json.loads(chunks["settings"]) == {
        "sampling": {
            "guidance_scale": 2.0,
            "top_k": None,
            "top_p": 0.9,
            "smooth": False,
            "rounds": 2,
            "diffusion_steps": 3,
            "discrete_only": True,
        },
        "size": 8,
        "device": "cpu",
        "dtype": "bfloat16",
        "random_weights": False,
        "loras": [],
        "lora_scale": 1.0,
        "batch": None,
    }


def test_prompts_come_from_the_file_too(text_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\ufeffa dog\n\n  a house  \n", encoding="utf-8")
    paths = drawn(
        run("generate", "a cat", "--prompts-file", prompts, "--model", text_model, "--out", tmp_path / "new/out")
    )
    assert [read_record(path).prompt for path in paths] == ["a cat", "a dog", "a house"]


def test_a_class_model_takes_numbers(class_model: Path, tmp_path: Path) -> None:
    paths = drawn(run("generate", "3", "0", "--model", class_model, "--out", tmp_path))
    assert [path.name for path in paths] == ["000-3-0.png", "001-0-1.png"]
    assert "by number" in refused(run("generate", "a cat", "--model", class_model, "--out", tmp_path))


def test_a_grid_comes_after_the_pictures(text_model: Path, tmp_path: Path) -> None:
    paths = drawn(run("generate", "a cat", "a dog", "-n", 3, "--grid", "--model", text_model, "--out", tmp_path))
    assert len(paths) == 7
    with Image.open(paths[-1]) as sheet:
        assert sheet.width > sheet.height > 2 * 8  # two rows of three


def test_a_run_that_stops_leaves_what_it_has_drawn(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = HartPipeline._decode, iter(range(3))

    def stops_at_the_third(self: HartPipeline, latent: torch.Tensor) -> Image.Image:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, latent)

    monkeypatch.setattr(HartPipeline, "_decode", stops_at_the_third)
    assert run("generate", "cat", "-n", 3, "--model", text_model, "--out", tmp_path).exit_code != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000-cat-0.png", "001-cat-1.png"]


def test_random_weights_need_a_configuration_only(text_model: Path, tmp_path: Path) -> None:
    paths = drawn(run("generate", "cat", "--random-weights", "--model", text_model / "config.json", "--out", tmp_path))
    again = drawn(run("generate", "--like", paths[0], "--out", tmp_path / "again"))
    assert paths[0].read_bytes() == again[0].read_bytes()


# --- generate --like


@pytest.mark.parametrize("batch_size", [1, 3])
def test_like_draws_the_same_file_again(text_model: Path, tmp_path: Path, batch_size: int) -> None:
    paths = drawn(run("generate", "a cat", "a dog", "-n", 2, "--seed", 3, "--batch-size", batch_size, "--guidance", 3,
                      "--dtype", "bf16", "--model", text_model, "--out", tmp_path))  # fmt: skip
    for path in paths:
        (again,) = drawn(run("generate", "--like", path, "--out", tmp_path / "again"))
        assert again.read_bytes() == path.read_bytes()


def test_like_changes_what_is_given(text_model: Path, class_model: Path, tmp_path: Path) -> None:
    (path,) = drawn(run("generate", "cat", "--seed", 3, "--guidance", 3, "--model", text_model, "--out", tmp_path))
    old = read_record(path)
    (other,) = drawn(run("generate", "dog", "--like", path, "--top-k", 5, "--out", tmp_path / "2"))
    new = read_record(other)
    assert (new.prompt, new.seed, new.model) == ("dog", 3, old.model)
    assert new.settings.sampling == old.settings.sampling.replace(top_k=5)
    more = drawn(run("generate", "--like", path, "-n", 2, "--out", tmp_path / "3"))
    assert [(read_record(p).prompt, read_record(p).seed) for p in more] == [("cat", 3), ("cat", 4)]
    assert more[0].read_bytes() == path.read_bytes()
    (moved,) = drawn(run("generate", "2", "--like", path, "--model", class_model, "--out", tmp_path / "4"))
    assert read_record(moved).model == str(class_model)


def test_an_adapter_draws_along_and_is_recorded(text_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    hart = add_lora(load_model(text_model).hart, rank=2, alpha=2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in hart.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.2)
    save_lora(hart, tmp_path / "adapter", base_model=str(text_model))
    options = ("a cat", "--model", text_model, "--guidance", 0, "--lora", tmp_path / "adapter")
    (plain,) = drawn(run("generate", *options[:-2], "--out", tmp_path / "1"))
    (path,) = drawn(run("generate", *options, "--lora-scale", 4, "--out", tmp_path / "2"))
    assert path.read_bytes() != plain.read_bytes()
    settings = read_record(path).settings
    assert (settings.loras, settings.lora_scale) == ((str(tmp_path / "adapter"),), 4)
    (again,) = drawn(run("generate", "--like", path, "--out", tmp_path / "3"))
    assert again.read_bytes() == path.read_bytes()
    (off,) = drawn(run("generate", "--like", path, "--lora-scale", 0, "--out", tmp_path / "4"))
    assert Image.open(off).tobytes() == Image.open(plain).tobytes()
    assert "adapter" in refused(run("generate", "a cat", "--model", text_model, "--lora", tmp_path, "--out", tmp_path))


def test_like_refuses_pictures_that_say_nothing(tmp_path: Path) -> None:
    plain, text = tmp_path / "plain.png", tmp_path / "notes.txt"
    Image.new("RGB", (4, 4)).save(plain)
    text.write_text("no picture")
    assert "lacks prompt" in refused(run("generate", "--like", plain, "--out", tmp_path))
    assert "not an image" in refused(run("generate", "--like", text, "--out", tmp_path))
    assert "no such file" in refused(run("generate", "--like", tmp_path / "none.png", "--out", tmp_path))


@pytest.mark.parametrize(
    "settings", ["{", "[]", "{}", '{"sampling": 3, "size": 8, "device": "cpu", "dtype": "float32"}']
)
def test_like_refuses_damaged_settings(tmp_path: Path, settings: str) -> None:
    chunks = PngInfo()
    for name, value in {"prompt": "cat", "seed": "1", "model": "m", "settings": settings, "Software": "hart 0"}.items():
        chunks.add_text(name, value)
    Image.new("RGB", (4, 4)).save(tmp_path / "bad.png", pnginfo=chunks)
    assert "settings" in refused(run("generate", "--like", tmp_path / "bad.png", "--out", tmp_path))


def test_like_says_when_another_version_drew_the_picture(text_model: Path, tmp_path: Path) -> None:
    (path,) = drawn(run("generate", "cat", "--model", text_model, "--out", tmp_path))
    with Image.open(path) as image:
        chunks = PngInfo()
        for name, value in image.text.items():  # type: ignore[attr-defined]
            chunks.add_text(name, "hart 0.0.1" if name == "Software" else value)
        image.save(path, pnginfo=chunks)
    result = run("generate", "--like", path, "--out", tmp_path / "again")
    assert result.exit_code == 0
    assert "0.0.1" in result.stderr


# --- reconstruct, info


def test_reconstruct_writes_three_pictures_side_by_side_and_prints_psnr(text_model: Path, tmp_path: Path) -> None:
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


def test_reconstruct_refuses_what_is_no_image(text_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    assert "not an image" in refused(run("reconstruct", path, "--model", text_model, "--out", tmp_path / "out"))


def test_info_counts_what_the_model_holds(text_model: Path) -> None:
    result = run("info", text_model)
    assert result.exit_code == 0
    assert "1, 4, 9, 16" in result.stdout  # tokens a scale
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
    assert "bfloat16: " in released  # whether this processor packs its layers, or why not
    assert "unknown model" in refused(run("info", "hart-7b"))


# --- convert, verify


@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_computes_the_same(case: str, tmp_path: Path) -> None:
    assert drawn(run("convert", GOLDEN / case, tmp_path / "own")) == [tmp_path / "own"]
    for name in (GOLDEN_FILE, CASE_FILE):
        shutil.copy(GOLDEN / case / name, tmp_path / "own")
    result = run("verify", tmp_path / "own")
    assert result.exit_code == 0, result.output
    pictures = []
    for folder in (GOLDEN / case, tmp_path / "own"):
        text = load_model(folder).config.transformer.text
        encoder = None if text is None else RandomTextFeatures(text, seed=0)
        pipe = HartPipeline.from_pretrained(str(folder), device="cpu", text_encoder=encoder)
        pictures.append(pipe("a cat" if text is not None else 1).images[0].tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_convert_stores_half_and_takes_the_text_encoder_along(text_model: Path, tmp_path: Path, dtype: str) -> None:
    drawn(run("convert", text_model, tmp_path / "own", "--dtype", dtype))
    weights = list((tmp_path / "own").glob("*.safetensors"))
    assert len(weights) == 3
    assert {value.dtype for file in weights for value in read_safetensors(file).values()} == {getattr(torch, dtype)}
    assert len(drawn(run("generate", "cat", "--model", tmp_path / "own", "--out", tmp_path))) == 1


def test_convert_overwrites_no_model(text_model: Path, class_model: Path, tmp_path: Path) -> None:
    before = (text_model / "config.json").read_bytes()
    assert "already holds a model" in refused(run("convert", class_model, text_model))
    assert (text_model / "config.json").read_bytes() == before
    assert "unknown dtype" in refused(run("convert", class_model, tmp_path / "own", "--dtype", "int8"))


def test_verify_prints_a_line_a_quantity_and_exits_1_where_one_differs(tmp_path: Path) -> None:
    case = GOLDEN / "var-c2i"
    good = run("verify", case)
    assert good.exit_code == 0
    assert all(line.startswith("ok") and "tolerance" in line for line in good.stdout.splitlines())
    assert any("teacher.logits  largest difference" in line for line in good.stdout.splitlines())

    drawn(run("convert", case, tmp_path / "own"))
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
    assert GOLDEN_FILE in refused(run("verify", tmp_path / "elsewhere"))


# --- bad input


def test_bad_input_is_one_line_and_exit_code_2(text_model: Path, tmp_path: Path) -> None:
    file, binary, blank = tmp_path / "file", tmp_path / "binary.txt", tmp_path / "blank.txt"
    file.write_text("x")
    binary.write_bytes(b"\xff\xfe\x00\x80")
    blank.write_text("\n \n")
    model = ("--model", text_model, "--out", tmp_path / "out")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("generate",), "--prompts-file"),
        (("generate", "", *model), "empty"),
        (("generate", "cat", " ", *model), "empty"),
        (("generate", "cat", "--model", "no-such-model", "--out", tmp_path), "unknown model 'no-such-model'"),
        (("generate", "cat", "--model", "hart-0.7b-256", "--out", tmp_path), "--random-weights"),
        (("generate", "cat", "--model", tmp_path, "--out", tmp_path), "no model here"),
        (("generate", "cat", "--model", text_model, "--out", file / "out"), "cannot write there"),
        (("generate", "cat", *model, "--size", 1024), "size 1024"),
        (("generate", "cat", *model, "--device", "cuda:77"), "cuda:77"),
        (("generate", "cat", *model, "--device", "toaster"), "unknown device"),
        (("generate", "cat", *model, "--dtype", "int8"), "unknown dtype"),
        (("generate", "cat", *model, "--seed", "abc"), "--seed"),
        (("generate", "cat", *model, "--seed", -1), "seed -1"),
        (("generate", "cat", *model, "-n", 0), "at least 1"),
        (("generate", "cat", *model, "--guidance", "nan"), "guidance"),
        (("generate", "cat", *model, "--top-p", 2), "top_p"),
        (("generate", "cat", *model, "--rounds", 99), "rounds"),
        (("generate", "--prompts-file", tmp_path / "none.txt", *model), "none.txt"),
        (("generate", "--prompts-file", tmp_path, *model), str(tmp_path)),
        (("generate", "--prompts-file", binary, *model), "UTF-8"),
        (("generate", "--prompts-file", blank, *model), "no prompt"),
        (("generate", "cat", "--no-such-option"), "--no-such-option"),
        (("reconstruct", tmp_path / "none.png", *model), "no such file"),
        (("reconstruct", *model), "Missing argument"),
        (("info", "no-such-model"), "unknown model"),
        (("convert", "no-such-model", tmp_path / "own"), "unknown model"),
        (("convert", text_model, file / "own"), "cannot write there"),
        (("train", "transformer", tmp_path / "none.toml", "--out", tmp_path / "run"), "none.toml"),
        (("train", "toaster", tmp_path / "none.toml", "--out", tmp_path / "run"), "toaster"),
        (("data", "emoji", file / "set"), "cannot write there"),
        (("data", "emoji", tmp_path / "set", "--size", 3), "size 3"),
        (("no-such-command",), "no-such-command"),
        ((), "Missing command"),
    ]
    for arguments, message in cases:
        assert message in refused(run(*arguments)), arguments


def test_cuda_is_refused_where_there_is_none(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("generate", "cat", "--model", text_model, "--out", tmp_path, "--device", "cuda")
    assert "sees no CUDA GPU" in refused(run(*arguments))


def test_nothing_is_loaded_before_the_output_folder_is_known_to_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(HartPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert "cannot write" in refused(run("generate", "cat", "--out", tmp_path / "file" / "out"))


def test_ctrl_c_is_quiet(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HartPipeline, "__call__", interrupted)
    result = run("generate", "cat", "--model", text_model, "--out", tmp_path)
    assert result.exit_code == 130
    assert result.output.strip() == f"stopped: 0 of 1 in {tmp_path}"


def failing_with(error: BaseException) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["cuda", "mps", "cublas", "python", "system"],
)
def test_too_little_memory_says_what_to_do(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(HartPipeline, "__call__", failing_with(error))
    message = refused(run("generate", "a cat", "--model", text_model, "--out", tmp_path))
    assert "out of memory" in message
    for way_out in ("--batch-size 1", "-n", "--dtype bfloat16", "--device cpu"):
        assert way_out in message


def test_too_little_memory_on_a_cpu_is_noticed_while_drawing_and_while_loading(
    class_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the allocator's real error."""

    def allocate(*_: Any, **__: Any) -> None:
        torch.empty(10**15)

    with monkeypatch.context() as drawing:
        drawing.setattr(HartPipeline, "__call__", allocate)
        assert "out of memory" in refused(run("generate", "1", "--model", class_model, "--out", tmp_path))
    monkeypatch.setattr(torch, "load", allocate)
    assert "out of memory" in refused(run("info", GOLDEN / "var-c2i"))


def test_a_fault_of_ours_keeps_its_traceback(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HartPipeline, "__call__", failing_with(RuntimeError("shapes do not match")))
    result = run("generate", "a cat", "--model", text_model, "--out", tmp_path)
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


# --- data, train


def test_data_encode_writes_a_set_that_training_can_read(text_model: Path, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 6)
    config = HartConfig.load(text_model / "config.json")
    assert config.text_encoder is not None
    tokenizer, words = tmp_path / "tokenizer", tmp_path / "words"
    shutil.copytree(text_model, words)
    (words / "text_encoder.json").write_text(config.text_encoder.to_json())
    tokenizer.mkdir()
    shutil.copy(text_model / "tokenizer.safetensors", tokenizer)
    (tokenizer / "config.json").write_text(config.tokenizer.to_json())
    call = ("data", "encode", tmp_path / "set", tmp_path / "codes", "--tokenizer", tokenizer, "--text-encoder", words)
    result = run(*call, "--shard-size", 4, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'codes'}: 6 pictures, 12 captions, 0 damaged\n"
    assert "6 pictures" in result.stderr
    data = EncodedSet(tmp_path / "codes")
    assert len(data) == 6 and data.has_text
    # a whole model has both
    again = run(*call[:3], tmp_path / "again", "--tokenizer", text_model, "--text-encoder", text_model)
    assert again.exit_code == 0, again.output
    assert EncodedSet(tmp_path / "again").settings["text_encoder"] == data.settings["text_encoder"]
    for changes, message in (
        (("--part", "3/2"), "part 3 of 2"),
        (("--part", "all"), "give it as I/N"),
        (("--scales", "1 2 4"), "give sides with commas"),
        (("--scales", "1,2,4,6"), "with other options"),
        (("--split", "test"), "ask for train, val or all"),
        (("--kind", "imagenet"), "huggingface"),
    ):
        refused_call = run(*call, *changes)
        assert refused_call.exit_code == 2
        assert message in refused_call.stderr and "Traceback" not in refused_call.stderr


def test_data_emoji_hands_its_options_on_and_sums_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def build(directory: Path, *, progress: Any, **options: Any) -> EmojiSummary:
        progress(1, 2, "drawing")
        asked.update(options)
        return EmojiSummary(directory, train=40, val=2, skipped=1, concepts=7, reused=False)

    monkeypatch.setattr("hart.data.emoji.build_emoji", build)
    result = run("data", "emoji", tmp_path / "set", "--size", 64, "--cache", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "40 pictures" in result.stdout
    assert asked == {"size": 64, "cache": tmp_path, "held_out_only": False}


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hart.data.emoji", None)
    assert "hart[data]" in refused(run("data", "emoji", tmp_path))


@pytest.mark.parametrize("stage", ["text-encoder", "tokenizer", "transformer"])
def test_train_names_unknown_keys(stage: str, tmp_path: Path) -> None:
    recipe = RECIPES / f"{stage.replace('-', '_')}.toml"
    assert "stepz" in refused(run("train", stage, recipe, "stepz=3", "--out", tmp_path))


def test_train_reads_overrides(tmp_path: Path) -> None:
    recipe = RECIPES / "tokenizer.toml"
    message = refused(run("train", "tokenizer", recipe, f"data='{tmp_path / 'none'}'", "--out", tmp_path))
    assert "none does not exist" in message


def test_train_writes_a_model_and_prints_its_figures(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(40):
        Image.effect_noise((8, 8), 10 + i).convert("RGB").save(pictures / f"{i}.png")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
        data = {json.dumps(str(pictures))}
        [tokenizer]
        scales = [1, 2, 4]
        base_channels = 32
        channel_multipliers = [1, 1]
        residual_blocks = 1
        latent_channels = 4
        codebook_size = 16
        [trainer]
        steps = 50
        batch_size = 2
        log_every = 1
        [optimizer]
        learning_rate = 1e-3
        """
    )
    result = run("train", "tokenizer", recipe, "trainer.steps=2", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1", "step 2", str(tmp_path / "run")]
    assert list((tmp_path / "run" / "model").glob("*.safetensors"))


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_a_dry_run_says_what_a_recipe_takes_without_its_data(stage: str) -> None:
    small = {
        "tokenizer": ("tokenizer.base_channels=32", "tokenizer.channel_multipliers=[1,1]", "perceptual.weight=0"),
        "transformer": ("transformer.depth=1", "diffusion.depth=1", "trainer.compile=false"),
    }
    result = run("train", stage, RECIPES / f"{stage}.toml", "--dry-run", "data='nowhere'", *small[stage])
    assert result.exit_code == 0, result.output
    said = {line.split()[0] for line in result.stdout.splitlines()}
    assert {"parameters", "tokens", "memory", "checkpoint", "time"} <= said


def test_the_scales_of_another_size_follow_from_the_recipes() -> None:
    small = ("tokenizer=emoji", "transformer.depth=1", "diffusion.depth=1", "trainer.compile=false")
    result = run("train", "transformer", RECIPES / "transformer.toml", "--dry-run", "--size", 256, *small)
    assert result.exit_code == 0, result.output
    # 1, 2, 3, 4, 6, 8, 11 and 16 cells
    assert "507 a picture" in result.stdout
    for size, said in ((100, "give a multiple of 16 px"), (16, "two or more")):
        assert said in refused(run("train", "tokenizer", RECIPES / "tokenizer.toml", "--dry-run", "--size", size))


def test_training_without_a_folder_is_refused() -> None:
    assert "--out is missing" in refused(run("train", "tokenizer", RECIPES / "tokenizer.toml"))


# --- as a process of its own


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300)


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, hart, hart.cli\n"
        "try: hart.cli.app(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    for command in ("generate", "reconstruct", "info", "convert", "verify", "data", "train"):
        assert command in done.stdout


def test_the_module_runs_as_a_program(class_model: Path, tmp_path: Path) -> None:
    done = python("-m", "hart", "generate", "2", "--model", str(class_model), "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_file()
    done = python("-m", "hart", "generate", "", "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = python("-m", "hart", "--version")
    assert done.stdout.strip() == f"hart {__version__}"
