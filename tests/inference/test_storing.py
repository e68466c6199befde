"""Models as folders that need nothing else: text encoder included, adapters merged, nothing overwritten."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from command_line import outputs, refused, run
from hart import HartError, HartPipeline
from hart.checkpoint.folders import CONFIG_FILE, HART_FILE, SCORER_FILE
from hart.checkpoint.loading import load_model, save_model
from hart.checkpoint.lora import add_lora, save_lora
from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.config import HartConfig, TextConditioning, TextEncoderConfig
from hart.text_encoder import load_text_encoder
from hart.text_encoder.base import RandomTextFeatures
from helpers import tiny_model, tiny_text_config
from language_models import save_language_model
from models import save_tiny_class_model, save_tiny_text_model


@pytest.fixture(autouse=True, scope="module")
def _needs_peft() -> None:
    pytest.importorskip("peft")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_text_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(model, tmp_path_factory.mktemp("adapter"))


def save_adapter(model: Path, folder: Path) -> Path:
    trained = add_lora(load_model(model).hart, rank=2, alpha=4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    save_lora(trained, folder, base_model=str(model))
    return folder


def opened(folder: Path) -> HartPipeline:
    return HartPipeline.from_pretrained(str(folder), device="cpu")


def image(pipe: HartPipeline) -> Image.Image:
    return pipe("a cat" if pipe.num_classes is None else 1, seed=3).images[0]


def test_a_merged_model_generates_as_the_adapters_do(model: Path, adapter: Path, tmp_path: Path) -> None:
    options = ("--lora", adapter, "--lora", adapter, "--lora-scale", 0.4)
    assert outputs(run("convert", model, tmp_path / "own", *options)) == [tmp_path / "own"]
    pipe = opened(model)
    plain = image(pipe).tobytes()
    for _ in range(2):
        pipe.load_lora(adapter, 0.4)
    shutil.move(model, tmp_path / "elsewhere")  # it needs nothing else
    try:
        assert image(opened(tmp_path / "own")).tobytes() == image(pipe).tobytes() != plain
    finally:
        shutil.move(tmp_path / "elsewhere", model)


def test_an_adapter_of_other_weights_is_noted(model: Path, tmp_path: Path) -> None:
    other = save_tiny_text_model(tmp_path / "other")
    weights = read_safetensors(other / HART_FILE)
    write_safetensors(other / HART_FILE, {name: -value for name, value in weights.items()})
    own, foreign = (save_adapter(base, tmp_path / f"of {base.name}") for base in (model, other))
    merge, generate = ("convert", model, tmp_path / "own"), ("generate", "a cat", "--model", model, "--out", tmp_path)
    for command in (merge, generate):
        result = run(*command, "--lora", own, "--lora", foreign, "--lora", own)
        assert result.exit_code == 0, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"note: {foreign}: this adapter was trained on other weights ({other}) than {model} ")


def test_the_scorer_of_best_of_n_goes_with_the_model(tmp_path: Path) -> None:
    model = save_tiny_text_model(tmp_path / "model")
    (model / SCORER_FILE).write_bytes(b"references")
    opened(model).save_pretrained(tmp_path / "saved")
    assert outputs(run("convert", model, tmp_path / "converted", "--dtype", "int8")) == [tmp_path / "converted"]
    for folder in ("saved", "converted"):
        assert (tmp_path / folder / SCORER_FILE).read_bytes() == b"references"
    with pytest.raises(HartError, match="already holds a model"):
        opened(model).save_pretrained(tmp_path / "saved")
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / SCORER_FILE).touch()
    with pytest.raises(HartError, match=SCORER_FILE):
        opened(model).save_pretrained(tmp_path / "partial")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("text", "float32"), ("class", "bfloat16"), ("random, packed", "float32"), ("random, packed", "bfloat16")],
)
def test_a_saved_pipeline_opens_and_generates_the_same(kind: str, dtype: str, tmp_path: Path) -> None:
    if kind == "random, packed":
        pipe = HartPipeline.from_config(tiny_text_config(width=512, heads=4, depth=1), device="cpu", dtype=dtype)
    else:
        save = save_tiny_text_model if kind == "text" else save_tiny_class_model
        pipe = HartPipeline.from_pretrained(str(save(tmp_path / "model")), device="cpu", dtype=dtype)
    before = image(pipe)
    pipe.save_pretrained(str(tmp_path / "saved"))
    again = HartPipeline.from_pretrained(str(tmp_path / "saved"), device="cpu", dtype=dtype)
    assert image(again).tobytes() == before.tobytes() == image(pipe).tobytes()
    assert again.fingerprints() == pipe.fingerprints()
    pipe.save_pretrained(tmp_path / "half", dtype="float16")
    assert {value.dtype for value in read_safetensors(tmp_path / "half" / HART_FILE).values()} == {torch.float16}


def test_a_model_from_a_relative_path_is_whole_wherever_the_program_goes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text encoder and scorer are read later."""
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / SCORER_FILE).touch()
    monkeypatch.chdir(tmp_path)
    pipe = HartPipeline.from_pretrained("model", device="cpu")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert image(pipe).tobytes() == image(opened(model)).tobytes()
    pipe.save_pretrained("saved")
    names = [{file.name for file in folder.iterdir()} for folder in (tmp_path / "model", Path("saved"))]
    assert names[0] == names[1]


def test_a_saved_pipeline_keeps_its_adapters(model: Path, adapter: Path, tmp_path: Path) -> None:
    pipe = opened(model)
    pipe.load_lora(adapter, 0.8)
    pipe.save_pretrained(tmp_path / "saved")  # before it has read any prompt
    assert image(opened(tmp_path / "saved")).tobytes() == image(pipe).tobytes()
    add_lora(pipe.hart, rank=1, alpha=1, generator=torch.Generator())
    with pytest.raises(HartError, match="adapters beside its weights"):
        pipe.save_pretrained(tmp_path / "unmerged")
    assert not (tmp_path / "unmerged").exists()


def test_a_language_model_in_a_folder_goes_along(tmp_path: Path) -> None:
    save_language_model(tmp_path / "qwen")
    encoder = TextEncoderConfig(kind="qwen2", tokens=12, source=str(tmp_path / "qwen"))
    text = TextConditioning(width=load_text_encoder(encoder, None).width, tokens=12)
    config = tiny_text_config(text=text).replace(text_encoder=encoder)
    save_model(tmp_path / "model", config, *tiny_model(config))
    expected = image(opened(tmp_path / "model"))
    outputs(run("convert", tmp_path / "model", tmp_path / "one"))
    shutil.rmtree(tmp_path / "qwen")
    pipe = opened(tmp_path / "one")
    assert image(pipe).tobytes() == expected.tobytes()
    pipe.save_pretrained(tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    assert image(opened(tmp_path / "two")).tobytes() == expected.tobytes()


def test_a_language_model_on_the_hub_is_named(tmp_path: Path) -> None:
    encoder = TextEncoderConfig(kind="qwen2", tokens=5, source="some/encoder")
    config = tiny_text_config().replace(text_encoder=encoder)
    save_model(tmp_path / "model", config, *tiny_model(config))
    outputs(run("convert", tmp_path / "model", tmp_path / "own"))
    assert HartConfig.load(tmp_path / "own" / CONFIG_FILE).text_encoder == encoder


def test_no_model_is_written_where_its_name_means_that_of_the_package(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "this name opens the package's own model" in refused(run("convert", model, "emoji"))
    assert not (tmp_path / "emoji").exists()


def test_a_clone_of_a_new_repository_takes_a_model(model: Path, tmp_path: Path) -> None:
    there = (".gitattributes", "README.md", "LICENSE")
    for name in there:
        (tmp_path / name).write_text("mine")
    outputs(run("convert", model, tmp_path))
    assert all((tmp_path / name).read_text() == "mine" for name in there)
    assert opened(tmp_path)


def test_nothing_is_written_over(model: Path, adapter: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    link = tmp_path / "link"
    link.symlink_to(model)
    for folder in (model, link):
        assert "own folder" in refused(run("convert", model, folder, "--lora", adapter))
        with pytest.raises(HartError, match="own folder"):
            opened(model).save_pretrained(folder)
    other = save_tiny_class_model(tmp_path / "other")
    assert "already holds a model" in refused(run("convert", model, other))
    for name in ("hart.safetensors", "text_encoder", "notes.txt"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        said = f"holds other files ({name}): give an empty or a new folder"
        assert said in refused(run("convert", "hub/model", folder)), "before anything is downloaded"
        with pytest.raises(HartError, match=re.escape(said)):
            opened(model).save_pretrained(folder)
        assert [file.name for file in folder.iterdir()] == [name]
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


def test_a_full_disk_leaves_no_part_of_a_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the same command serves once there is room."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for already in (False, True):
        destination = tmp_path / f"own {already}"
        if already:
            destination.mkdir()
            (destination / ".gitignore").write_text("mine")
        before = list(tmp_path.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr("hart.checkpoint.loading.save_module", full)
            assert "No space left" in refused(run("convert", model, destination))
        assert list(tmp_path.rglob("*")) == before
        assert run("convert", model, destination).exit_code == 0
        assert load_model(destination).config == load_model(model).config


def test_wrong_adapters_leave_no_model(model: Path, tmp_path: Path) -> None:
    for nothing, said in ((tmp_path, "no LoRA adapter here"), ("~a-user-that-nobody-has/adapter", "no such folder")):
        assert said in refused(run("convert", model, tmp_path / "own", "--lora", nothing))
    assert "give --lora too" in refused(run("convert", model, tmp_path / "own", "--lora-scale", 2))
    for scale in ("nan", 50):
        said = refused(run("convert", model, tmp_path / "own", "--lora", tmp_path, "--lora-scale", scale))
        assert f"--lora-scale must be at most 10, not '{scale}'" in said
    assert not (tmp_path / "own").exists()


def test_other_text_encoders_cannot_be_stored(model: Path, tmp_path: Path) -> None:
    class Foreign:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    own = opened(model).text_encoder
    assert own is not None
    # whatever it says of itself: random features would be another encoder
    random = RandomTextFeatures(TextConditioning(own.width, own.config.tokens), seed=0)
    for inner in (own, random):
        pipe = HartPipeline.from_pretrained(str(model), device="cpu", text_encoder=Foreign(inner))
        with pytest.raises(HartError, match="Foreign cannot be stored"):
            pipe.save_pretrained(tmp_path / "own")
