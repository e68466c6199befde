"""Stage `tokenizer` on a handful of pictures in memory: it learns, resumes exactly, and freezes what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hart.checkpoint.loading import save_model
from hart.checkpoint.storage import CheckpointError
from hart.config import ConfigError
from hart.training.config import OptimizerConfig, TokenizerLossConfig, TokenizerRecipe, TrainerConfig
from hart.training.starting import load_tokenizer, save_tokenizer
from hart.training.task import Share
from hart.training.tokenizer_task import TokenizerTask, reconstruction_psnr
from hart.training.trainer import Trainer
from helpers import pictures, tiny_model, tiny_text_config, tiny_tokenizer_config

RECIPE = TokenizerRecipe(
    data="",
    tokenizer=tiny_tokenizer_config(),
    trainer=TrainerConfig(steps=4, batch_size=4, checkpoint_every=2, log_every=2),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=1),
    loss=TokenizerLossConfig(perceptual=0.0),
    revive_every=2,
)


def test_it_learns_one_batch(tmp_path: Path) -> None:
    recipe = RECIPE.replace(trainer=RECIPE.trainer.replace(steps=60, log_every=20, checkpoint_every=60))
    data, logs = pictures(), []
    task = TokenizerTask(recipe, data)
    before = reconstruction_psnr(task.module.eval(), data)
    Trainer(task, recipe, tmp_path, on_log=lambda step, figures: logs.append(figures)).run()
    after = reconstruction_psnr(task.module.eval(), data)
    assert after["continuous"] > before["continuous"] + 3
    assert after["discrete"] > before["discrete"] + 1
    assert {"loss", "l1_discrete", "l1_continuous", "quantizer"} <= logs[-1].keys()


def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(tmp_path: Path) -> None:
    Trainer(TokenizerTask(RECIPE, pictures()), RECIPE, tmp_path / "whole").run()
    last = Path("checkpoints", "step-00000004.pt")
    whole = torch.load(tmp_path / "whole" / last, weights_only=True)["weights"]
    (tmp_path / "whole" / last).unlink()
    again = Trainer(TokenizerTask(RECIPE, pictures()), RECIPE, tmp_path / "whole")
    assert again.step == 2
    again.run()
    resumed = torch.load(tmp_path / "whole" / last, weights_only=True)["weights"]
    for one, other in ((whole["average"], resumed["average"]), (_weights(whole), _weights(resumed))):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def _weights(saved: dict[str, Any]) -> dict[str, torch.Tensor]:
    return saved["parts"]["model"]["module"]


def test_the_seed_decides_the_starting_weights() -> None:
    torch.manual_seed(1)
    first = TokenizerTask(RECIPE, pictures()).module.state_dict()
    torch.manual_seed(2)
    second = TokenizerTask(RECIPE, pictures()).module.state_dict()
    other = TokenizerTask(RECIPE.replace(trainer=RECIPE.trainer.replace(seed=1)), pictures()).module.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["encoder.conv_in.weight"], other["encoder.conv_in.weight"])


def test_the_decoder_alone_is_trained_when_asked(tmp_path: Path) -> None:
    recipe = RECIPE.replace(decoder_only=True)
    task = TokenizerTask(recipe, pictures())
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    Trainer(task, recipe, tmp_path).run()
    moved = {name.split(".")[0] for name, value in task.module.state_dict().items() if not value.equal(before[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_codes_that_nothing_chose_move_onto_the_data(tmp_path: Path) -> None:
    task = TokenizerTask(RECIPE, pictures())
    codebook = task.module.quantizer.codebook.weight
    codebook.data[5:] = 1000.0  # far from every cell
    logs: list[dict[str, float]] = []
    run = Trainer(task, RECIPE, tmp_path, on_log=lambda step, figures: logs.append(figures))
    run.run()
    assert logs[0]["dead_codes"] >= 19, "a count, not diluted by the steps between"
    assert codebook.abs().max() < 100
    assert run.stepper.average.weights["quantizer.codebook.weight"].abs().max() < 100, "the average starts anew too"
    late = Share(0, RECIPE.trainer.steps - 1, 4, slice(0, 4))
    codebook.data[5:] = 1000.0
    task.loss("model", task.batch(late))
    assert task.after_step(late, run.stepper)["dead_codes"] >= 19
    assert (codebook[5:] == 1000.0).all(), "the last third of training keeps the codebook"


def test_saved_tokenizers_come_back(tmp_path: Path) -> None:
    tokenizer = TokenizerTask(RECIPE, pictures()).module
    save_tokenizer(tmp_path, tokenizer)
    loaded = load_tokenizer(tmp_path)
    assert loaded.config == tokenizer.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in tokenizer.state_dict().items())
    assert not loaded.training
    (tmp_path / "tokenizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_tokenizer(tmp_path)


def test_training_goes_on_from_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = TokenizerTask(RECIPE.replace(trainer=RECIPE.trainer.replace(seed=9)), pictures()).module
    save_tokenizer(tmp_path, tokenizer)
    task = TokenizerTask(RECIPE.replace(init_from=str(tmp_path)), pictures())
    assert torch.equal(task.module.encoder.conv_in.weight, tokenizer.encoder.conv_in.weight)


def test_training_goes_on_from_any_model_of_the_same_sizes(tmp_path: Path) -> None:
    config = tiny_text_config()
    tokenizer, hart = tiny_model(config)
    save_model(tmp_path, config, tokenizer, hart)
    other_scales = RECIPE.replace(init_from=str(tmp_path), tokenizer=RECIPE.tokenizer.replace(scales=(1, 2, 4, 8)))
    task = TokenizerTask(other_scales, pictures())
    assert torch.equal(task.module.decoder.conv_out.weight, tokenizer.decoder.conv_out.weight)
    assert task.module.config.scales == (1, 2, 4, 8)
    narrow = RECIPE.replace(init_from=str(tmp_path), tokenizer=RECIPE.tokenizer.replace(codebook_size=8))
    with pytest.raises(ConfigError, match="codebook_size is 24 there and 8 in the recipe"):
        TokenizerTask(narrow, pictures())


def test_quantisation_stays_in_float32_under_autocast() -> None:
    task = TokenizerTask(RECIPE, pictures())
    image = task.batch(Share(0, 0, 4, slice(0, 4))).image
    with torch.autocast("cpu", torch.bfloat16):
        latent = task.module.encode(image).float()
        inside = task.module.training_pass(image, discrete=True)
    outside = task.module.quantize(latent)
    assert torch.equal(inside.quantized.latent, outside.latent)


def test_reconstructions_are_shown() -> None:
    task = TokenizerTask(RECIPE, pictures(3))
    assert task.samples(0, task.module)["reconstructions"].size == (24, 24)  # type: ignore[attr-defined]
