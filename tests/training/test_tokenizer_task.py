"""Stage `tokenizer` on a handful of pictures in memory: it learns, resumes exactly, and freezes what it should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hart.checkpoint.storage import CheckpointError
from hart.training.config import OptimizerConfig, TokenizerLossConfig, TokenizerRecipe, TrainerConfig
from hart.training.tokenizer_task import TokenizerTask, load_tokenizer, reconstruction_psnr, save_tokenizer
from hart.training.trainer import STATE_FILE, Trainer
from helpers import pictures, tiny_tokenizer_config

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
    Trainer(task, recipe.trainer, recipe.optimizer, tmp_path, report=logs.append).run()
    after = reconstruction_psnr(task.module.eval(), data)
    assert after["continuous"] > before["continuous"] + 3
    assert after["discrete"] > before["discrete"] + 1
    assert {"loss", "l1_discrete", "l1_continuous", "quantizer"} <= logs[-1].keys()


def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(tmp_path: Path) -> None:
    Trainer(TokenizerTask(RECIPE, pictures()), RECIPE.trainer, RECIPE.optimizer, tmp_path / "whole").run()
    # the same schedule, left after its first checkpoint
    first = Trainer(TokenizerTask(RECIPE, pictures()), RECIPE.trainer, RECIPE.optimizer, tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        real = first.task.loss

        def interrupted(step: int, generator: torch.Generator) -> object:
            if step == 2:
                raise KeyboardInterrupt
            return real(step, generator)

        patch.setattr(first.task, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.run()
    second = Trainer(TokenizerTask(RECIPE, pictures()), RECIPE.trainer, RECIPE.optimizer, tmp_path / "broken")
    assert second.step == 2
    second.run()
    whole, resumed = (torch.load(tmp_path / name / STATE_FILE, weights_only=True) for name in ("whole", "broken"))
    for part in ("module", "average"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())


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
    Trainer(task, recipe.trainer, recipe.optimizer, tmp_path).run()
    moved = {name.split(".")[0] for name, value in task.module.state_dict().items() if not value.equal(before[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_codes_that_nothing_chose_move_onto_the_data() -> None:
    task = TokenizerTask(RECIPE, pictures())
    codebook = task.module.quantizer.codebook.weight
    codebook.data[5:] = 1000.0  # far from every cell
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        task.loss(step, generator)
        figures = task.after_step(step, generator)
    assert figures["dead_codes"] >= 19 * RECIPE.trainer.log_every
    assert codebook.abs().max() < 100
    late = RECIPE.trainer.steps - 1
    codebook.data[5:] = 1000.0
    task.loss(late, generator)
    task.after_step(late, generator)
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
