"""Levels of speed: what a pipeline says of them, stores of them, and refuses."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hart import HartError, HartPipeline
from hart.checkpoint.folders import CONFIG_FILE, HART_FILE, CheckpointError
from hart.checkpoint.loading import load_model
from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.checkpoint.verification import RecordedNoise
from hart.config import HartConfig
from hart.generation.next_scale import NextScaleGenerator
from hart.generation.requests import ImageRequest
from hart.inference.kernels import attends_narrowly, int8_range
from hart.inference.packing import attends_by_onednn, packing_refusal, treats_rows_alike
from hart.inference.speed import LEVELS, Speed, is_quantized, resolve_speed
from hart.serving.pipeline_engine import PipelineEngine
from helpers import random_context, store_adapter, tiny_text_config

WIDE = tiny_text_config(width=256, heads=4, depth=1)
needs_kernels = pytest.mark.skipif(not int8_range(), reason="this processor has no 8-bit kernels")


def opened(speed: str = "exact") -> HartPipeline:
    return HartPipeline.from_config(WIDE, device="cpu", speed=speed)


def image(pipe: HartPipeline, **settings: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(pipe("a cat", seed=3, **settings).images[0], dtype=np.float64)


def test_unknown_levels_and_those_of_other_devices_are_refused() -> None:
    with pytest.raises(HartError, match="unknown speed 'warp': choose plain, exact"):
        opened("warp")
    with pytest.raises(HartError, match=r"no fp8 products: .*; choose exact"):
        opened("fp8")
    for wrong in (None, 3, {"weights": "int8"}):
        with pytest.raises(HartError, match="speed must be a Speed or one of"):
            opened().optimize(wrong)  # type: ignore[arg-type]
    with pytest.raises(HartError, match="unknown speed ''"):
        opened("")


@needs_kernels
def test_kernels_of_8_bits_are_not_compiled_on_a_processor() -> None:
    pipe = opened("int8")
    with pytest.raises(HartError, match="compiler refuses the 8-bit kernels"):
        pipe.optimize(pipe.speed.replace(compile=True))
    assert pipe.speed == resolve_speed("int8", pipe.device)


@needs_kernels
@pytest.mark.parametrize("level", ["int8", "draft"])
def test_levels_of_8_bits_say_so_and_cannot_be_undone(level: str) -> None:
    pipe = opened()
    remarks = pipe.optimize(level)
    assert "weights and activations of large layers in int8" in remarks
    assert remarks == pipe.speed_remarks() == opened(level).speed_remarks()
    approximate = [remark.split(": ")[1] for remark in remarks if remark.startswith("approximate")]
    guidance = ["the last 2 scales without guidance"]  # the model has a draft's diffusion steps anyway
    assert approximate == (guidance if level == "draft" else [])
    assert np.array_equal(image(pipe), image(opened(level)))
    with pytest.raises(HartError, match="open the model again"):
        pipe.optimize("exact")


@needs_kernels
@pytest.mark.parametrize("multiplied", [True, False])
def test_the_decoder_is_in_bfloat16_where_the_processor_multiplies_that(
    multiplied: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("devices", "inference.speed"):
        monkeypatch.setattr(f"hart.{module}.is_slow", lambda dtype, device: not (multiplied or dtype == torch.float32))
    opened().save_pretrained(tmp_path, "int8")
    for pipe in (opened("int8"), opened("draft"), HartPipeline.from_pretrained(tmp_path, device="cpu")):
        dtype = pipe.tokenizer.decoder.conv_out.weight.dtype
        assert dtype == (torch.bfloat16 if multiplied else torch.float32)
        assert any(remark.startswith("decoder not in bfloat16") for remark in pipe.speed_remarks()) != multiplied
        pipe.optimize(pipe.speed.replace(cache="int8"))
    remarks = opened().optimize(Speed(decoder="bfloat16"))
    assert any(remark.startswith("decoder not in bfloat16") for remark in remarks) != multiplied
    assert not any("decoder" in remark for remark in opened().optimize(Speed(weights="int8")))
    for narrow in ("bfloat16", "float16"):
        remarks = HartPipeline.from_config(WIDE, device="cpu", dtype=narrow).speed_remarks()
        assert any(remark.startswith(f"{narrow} takes several times as long") for remark in remarks) != multiplied


def test_a_stored_model_of_8_bits_works_where_the_device_has_no_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("kernels", "speed"):
        monkeypatch.setattr(f"hart.inference.{module}.kernel_refusal", lambda dtype, device: "it has none")
    opened().save_pretrained(tmp_path, "int8")
    pipe = HartPipeline.from_pretrained(tmp_path, device="cpu")
    assert any("in int8, multiplied as float32: it has none" in remark for remark in pipe.speed_remarks())
    pipe.optimize(pipe.speed.replace(cache="int8"))
    assert image(pipe).shape == image(opened()).shape


@pytest.fixture
def apple_processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch for it has neither oneDNN nor its operators; what was tried on this processor is tried again."""
    trials = (packing_refusal, int8_range, attends_by_onednn, attends_narrowly, treats_rows_alike)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "neon": True})
    for name in ("mkldnn", "onednn"):
        monkeypatch.setattr(torch.ops, name, SimpleNamespace(), raising=False)
    for trial in trials:
        trial.cache_clear()
    yield
    for trial in trials:
        trial.cache_clear()


@pytest.mark.usefixtures("apple_processor")
def test_an_apple_processor_does_plainly_what_it_has_no_kernels_for(tmp_path: Path) -> None:
    pipe = opened()
    assert pipe.speed_remarks() == ["weights not packed: packing is known to be faster on x86 processors only"]
    expected = image(pipe)
    assert np.array_equal(expected, image(opened("plain")))
    with pytest.raises(
        HartError, match="no int8 products: this processor has no 8-bit kernels in this PyTorch; choose exact"
    ):
        opened("int8")
    pipe.save_pretrained(tmp_path, "int8")
    stored = HartPipeline.from_pretrained(tmp_path, device="cpu")
    assert "multiplied as float32: this processor has no 8-bit kernels" in stored.speed_remarks()[0]
    assert image(stored).shape == expected.shape


def approximate() -> HartPipeline:
    return HartPipeline.from_config(WIDE, device="cpu", speed=Speed(unguided_scales=2))


def test_settings_of_a_level_hold_where_a_call_has_none_of_its_own() -> None:
    pipe, exact = approximate(), opened()
    expected = image(exact, unguided_scales=2)
    assert not np.array_equal(expected, image(exact))
    # as the commands call it, where an option that is not given is None
    assert np.array_equal(image(pipe, unguided_scales=None, diffusion_steps=None), expected)
    assert np.array_equal(image(pipe, unguided_scales=0), image(exact))
    assert np.array_equal(image(pipe, sampling=exact.config.sampling), image(exact))
    assert pipe.sampling.unguided_scales == PipelineEngine(pipe).facts.sampling.unguided_scales == 2


def test_more_diffusion_steps_than_training_had_are_refused_before_the_first_image() -> None:
    with pytest.raises(HartError, match="diffusion_steps: 1001 are more than the 1000 of training"):
        opened().optimize(Speed(diffusion_steps=1001))
    with pytest.raises(HartError, match="diffusion_steps: 1001 are more"):
        HartPipeline.from_config(WIDE, device="cpu", speed=Speed(diffusion_steps=1001))


def test_a_level_takes_no_diffusion_steps_where_there_is_no_residual() -> None:
    pipe = HartPipeline.from_config(WIDE.replace(diffusion=None), speed=Speed(unguided_scales=2, diffusion_steps=4))
    assert pipe("a cat").sampling == [pipe.config.sampling.replace(unguided_scales=2)]


def test_rows_of_different_people_have_the_settings_of_a_level() -> None:
    def latent(pipe: HartPipeline, **settings: Any) -> torch.Tensor:
        sampling = pipe.config.sampling.replace(**settings) if settings else None
        *_, last = pipe.generate_rows([ImageRequest("a cat", seed=3, sampling=sampling)])
        return last.latent

    assert torch.equal(latent(approximate()), latent(opened(), unguided_scales=2))


@needs_kernels
def test_a_stored_model_of_8_bits_is_the_same_model(tmp_path: Path) -> None:
    pipe = opened("int8")
    pipe.save_pretrained(tmp_path / "a")
    opened().save_pretrained(tmp_path / "b", "int8")
    first, second = (HartPipeline.from_pretrained(tmp_path / name, device="cpu") for name in "ab")
    assert first.fingerprints() == pipe.fingerprints() != opened().fingerprints()
    assert first.components.speed == second.components.speed == pipe.speed
    assert np.array_equal(image(first), image(pipe))
    stored = read_safetensors(tmp_path / "b" / HART_FILE)
    assert {value.dtype for value in stored.values()} == {torch.int8, torch.float32, torch.bfloat16}
    # for training, evaluation and whoever else wants ordinary layers
    plain = load_model(tmp_path / "a").hart
    assert not is_quantized(plain)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), first.hart.parameters(), strict=True))
    again = HartPipeline.from_pretrained(tmp_path / "a", device="cpu", speed="exact")
    assert not is_quantized(again.components.hart)
    # for the size of its file alone
    file = tmp_path / "a" / CONFIG_FILE
    file.write_text(HartConfig.load(file).replace(dequantize=True).to_json())
    small = HartPipeline.from_pretrained(tmp_path / "a", device="cpu")
    assert small.components.speed == LEVELS["exact"]
    assert np.array_equal(image(small), image(again))
    assert (
        HartPipeline.from_pretrained(tmp_path / "a", device="cpu", speed="int8").fingerprints() == pipe.fingerprints()
    )


def test_damaged_files_of_8_bits_are_refused(tmp_path: Path) -> None:
    opened().save_pretrained(tmp_path, "int8")
    whole = read_safetensors(tmp_path / HART_FILE)
    scale = next(name for name in whole if name.endswith("weight_scale"))
    weight, norm = scale.removesuffix("_scale"), next(name for name in whole if name.endswith("norm.weight"))
    for changed, message in (
        ({name: value for name, value in whole.items() if name != scale}, f"missing {scale}"),
        (whole | {weight: whole[weight].float()}, f"unexpected {scale}"),
        (whole | {scale: whole[scale] * torch.nan}, f"{scale} holds numbers that are not finite"),
        (whole | {norm: torch.ones_like(whole[norm], dtype=torch.int8)}, f"{norm} holds int8"),
    ):
        write_safetensors(tmp_path / HART_FILE, changed)
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path)


@needs_kernels
def test_adapters_are_merged_and_rounded_again(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    store_adapter(HartPipeline.from_config(WIDE, device="cpu").hart, tmp_path, alpha=8, value=0.3)
    pipe = opened("int8")
    before = image(pipe)
    pipe.load_lora(tmp_path)
    assert is_quantized(pipe.components.hart)
    assert not np.array_equal(image(pipe), before)
    pipe.unload_lora()
    assert np.array_equal(image(pipe), before)


@needs_kernels
def test_8_bits_survive_another_type_and_plain_modules() -> None:
    pipe = opened("int8")
    before = pipe.fingerprints()["transformer"]
    plain = HartPipeline.from_config(WIDE, device="cpu", speed="int8").hart
    assert not is_quantized(plain)
    pipe.to(torch.bfloat16)
    assert is_quantized(pipe.components.hart)
    weights = {n: v for n, v in opened("int8").components.hart.state_dict().items() if v.dtype == torch.int8}
    moved = pipe.components.hart.state_dict()
    assert all(torch.equal(moved[name], value) for name, value in weights.items())
    assert pipe.fingerprints()["transformer"] != before  # norms and embeddings were rounded
    assert image(pipe).shape == image(opened()).shape


@needs_kernels
def test_an_adapter_that_adds_nothing_leaves_8_bits_alone(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    store_adapter(HartPipeline.from_config(WIDE, device="cpu").hart, tmp_path, alpha=8, value=0)
    pipe = HartPipeline.from_config(WIDE, device="cpu", dtype="bfloat16", speed="int8")
    before = pipe.fingerprints()
    pipe.load_lora(tmp_path)
    assert pipe.fingerprints() == before


def test_memory_is_saved_without_another_image() -> None:
    pipe = opened()
    before, blocks = image(pipe), pipe.components.hart.transformer.blocks
    assert pipe.optimize(pipe.speed.replace(tiled=True, offload=True))[1:] == [
        "decoding in strips",
        "text encoder not off-loaded: it runs in main memory",
    ]
    assert np.abs(image(pipe) - before).max() <= 1
    assert pipe.components.hart.transformer.blocks is not blocks  # calls that run keep their modules


@pytest.mark.parametrize(("cache", "tolerance"), [("bfloat16", 0.02), ("int8", 0.02)])
def test_a_narrower_cache_changes_little(cache: Any, tolerance: float) -> None:
    logits = []
    for kept in ("model", cache):
        pipe = opened()
        pipe.optimize(Speed(cache=kept))
        noise = RecordedNoise(torch.zeros(16, 4), 1, torch.device("cpu"))
        hart, quantizer = pipe.components.hart, pipe.tokenizer.quantizer
        states = NextScaleGenerator(hart, quantizer, WIDE.sampling, noise).states(random_context(WIDE, 1))
        logits.append(next(states).steps[0].logits)
    assert 0 < (logits[0] - logits[1]).abs().max() < tolerance * logits[0].abs().max()
