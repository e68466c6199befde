"""`hart data`: what its commands hand on and print."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from command_line import refused, run
from hart.config import HartConfig
from hart.data.encoded import EncodedSet
from hart.training import encoding
from image_files import write_captioned_folder


def test_data_encode_writes_a_set_that_training_can_read(text_model: Path, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 6)
    config = HartConfig.load(text_model / "config.json")
    assert config.text_encoder is not None
    tokenizer, text_encoder = tmp_path / "tokenizer", tmp_path / "words"
    shutil.copytree(text_model, text_encoder)
    (text_encoder / "text_encoder.json").write_text(config.text_encoder.to_json())
    tokenizer.mkdir()
    shutil.copy(text_model / "tokenizer.safetensors", tokenizer)
    (tokenizer / "config.json").write_text(config.tokenizer.to_json())
    call = (
        "data",
        "encode",
        tmp_path / "set",
        tmp_path / "codes",
        "--tokenizer",
        tokenizer,
        "--text-encoder",
        text_encoder,
    )
    result = run(*call, "--shard-size", 4, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'codes'}: 6 images, 12 captions, 0 damaged\n"
    assert "6 images" in result.stderr
    data = EncodedSet(tmp_path / "codes")
    assert len(data) == 6 and data.has_text
    # a whole model has both
    again = run(*call[:3], tmp_path / "again", "--tokenizer", text_model, "--text-encoder", text_model)
    assert again.exit_code == 0, again.output
    assert EncodedSet(tmp_path / "again").settings["text_encoder"] == data.settings["text_encoder"]
    for changes, message in (
        (("--part", "3/2"), "part 3 of 2"),
        (("--part", "all"), "give it as I/N"),
        (("--scales", "1 2 4"), "--scales[0]: expected a whole number"),
        (("--scales", "1,2,4,6"), "with other encoders or options"),
        (("--scales", "1,2", "--size", 8, "--tokenizer", "none"), "error: --scales and --size both set the scales"),
        (("--split", "test"), "has none for 'test': make it, or name one as the split: train"),
        (("--kind", "imagenet"), "huggingface"),
    ):
        refused_call = run(*call, *changes)
        assert refused_call.exit_code == 2
        assert message in refused_call.stderr and "Traceback" not in refused_call.stderr
    for given in (("--text-tokens", 8), ("--text-instruction",)):
        without = (*call[:4], "--tokenizer", tokenizer, *given)
        assert "are for captions: give --text-encoder too" in refused(run(*without))


def test_a_folder_of_other_files_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    said = refused(run("data", "encode", "absent", tmp_path, "--tokenizer", "hub/model"))
    assert "holds other files (notes.txt): give an empty or a new folder" in said


def test_a_text_encoder_that_is_not_there_is_said_before_the_set_is_listed(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart.data.opening.open_source", lambda *_, **__: pytest.fail("listed"))
    monkeypatch.setattr("hart.checkpoint.hub.unreachable", lambda: "no route")
    call = ("data", "encode", tmp_path / "set", tmp_path / "codes", "--tokenizer", text_model, "--text-encoder")
    assert "text encoder 'no where/model': there is no such folder" in refused(run(*call, "no where/model"))
    assert "text encoder 'someone/model' is not a folder" in refused(run(*call, "someone/model"))


def test_captions_without_a_text_encoder_are_no_damage(text_model: Path, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 6, damaged=(3,))
    call = ("data", "encode", tmp_path / "set", tmp_path / "codes", "--tokenizer", text_model)
    said = refused(run(*call), notes=True)
    assert "no image has a class number" in said and "give --text-encoder to store captions" in said
    assert "damaged" not in said and not list((tmp_path / "codes").glob("*.safetensors"))
    for number in range(6):  # a class that only the notes of each image tell
        (tmp_path / "set" / "train" / f"{number:04d}.cls").write_text("1")
    assert "5 images, 0 captions, 1 damaged" in run(*call, "--max-damaged", 0.5).stdout


def test_an_encoding_that_is_stopped_says_what_is_kept_and_goes_on(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captioned_folder(tmp_path / "set", 6)
    models = "--tokenizer", text_model, "--text-encoder", text_model
    call = "data", "encode", tmp_path / "set", tmp_path / "codes", *models, "--shard-size", 2
    write = encoding.atomic_write

    def write_and_stop(path: Path, content: Any) -> None:
        write(path, content)
        if path.name.startswith("train-00001"):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "atomic_write", write_and_stop)
        stopped = run(*call)
    assert stopped.exit_code == 128 + signal.SIGTERM
    said = f"stopped: {tmp_path / 'codes'} has the shards so far; the same command continues"
    assert stopped.stderr.splitlines()[-1] == said
    names = sorted(path.name for path in (tmp_path / "codes").iterdir())
    assert names == ["train-00000.safetensors", "train-00001.safetensors"]
    assert run(*call).exit_code == 0
    assert len(EncodedSet(tmp_path / "codes")) == 6
