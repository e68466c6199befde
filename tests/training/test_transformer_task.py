"""Stage `transformer`: the input of a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.checkpoint.folders import SHIPPED_MODELS
from hart.checkpoint.loading import load_model, save_model, save_tokenizer
from hart.config import ConfigError, TextConditioning
from hart.grids import Grid
from hart.model import Hart
from hart.sizes import schedule_of_grid
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.conditions import drop_condition
from hart.training.config import TrainerConfig
from hart.training.task import Microbatch
from hart.training.token_sources import encode_all
from hart.training.trainer import Trainer
from hart.training.transformer_task import TOKEN_LAYERS, TransformerTask, start_from
from hart.types import TextContext
from helpers import (
    SCALES,
    TEXT_TOKENS,
    captioned_images,
    random_context,
    random_image,
    random_tensor,
    same_weights,
    teacher_input,
    tiny_class_config,
    tiny_model,
    tiny_text_config,
    transformer_recipe,
)


def contexts(count: int) -> TextContext:
    return TextContext(random_tensor(count, TEXT_TOKENS, 2), torch.ones(count, TEXT_TOKENS, dtype=torch.bool))


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_captions_are_dropped_as_often_as_asked(probability: float) -> None:
    """Published code compared a normal number with the rate: 54% dropped where 10% was meant."""
    given = contexts(4000)
    result = drop_condition(given, torch.rand(4000, generator=torch.Generator().manual_seed(0)) < probability)
    dropped = ~result.embeddings.flatten(1).any(dim=1)
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.02)
    assert (result.mask[dropped].sum(dim=1) == 1).all()
    assert torch.equal(result.embeddings[~dropped], given.embeddings[~dropped])
    assert torch.equal(given.embeddings, contexts(4000).embeddings), "the caller's context must stay as it is"


def test_tokens_made_once_are_those_made_in_a_step() -> None:
    tokenizer, _ = tiny_model(tiny_text_config())
    data = captioned_images(5)
    maps = encode_all(tokenizer, tokenizer.config.schedule, data, torch.device("cpu"))
    assert [index.shape for index in maps.indices] == [(5, n * n) for n in SCALES]
    rows = torch.tensor([4, 0, 4])
    chosen = maps.rows(rows)
    assert torch.equal(chosen.indices[2], maps.indices[2][rows])
    assert torch.equal(chosen.last_scale_continuous, maps.last_scale_continuous[rows])
    # tokens made without gradients must still serve in a training step
    weight = torch.ones(1, requires_grad=True)
    (chosen.teacher_forcing_input * weight).sum().backward()
    assert weight.grad is not None


def test_augmented_versions_follow_the_plain_images() -> None:
    tokenizer, _ = tiny_model(tiny_text_config())
    data, cpu = captioned_images(3), torch.device("cpu")
    plain = encode_all(tokenizer, tokenizer.config.schedule, data, cpu)
    augmented = encode_all(tokenizer, tokenizer.config.schedule, data, cpu, augmentations=3)
    latents = augmented.last_scale_continuous.view(3, *plain.last_scale_continuous.shape)
    assert torch.equal(latents[0], plain.last_scale_continuous)
    assert not torch.equal(latents[1], latents[0])
    assert not torch.equal(latents[1], latents[2])


def test_codes_of_augmented_versions_are_corrupted_and_corrected_by_later_scales() -> None:
    tokenizer, _ = tiny_model(tiny_text_config())
    data, cpu, schedule = captioned_images(3), torch.device("cpu"), tokenizer.config.schedule
    right = encode_all(tokenizer, schedule, data, cpu, augmentations=2)
    wrong = encode_all(tokenizer, schedule, data, cpu, augmentations=2, code_corruption=1.0, seed=0)
    plain, moved = slice(0, 3), slice(3, 6)
    assert torch.equal(wrong.teacher_forcing_input[plain], right.teacher_forcing_input[plain])
    assert not torch.equal(wrong.teacher_forcing_input[moved], right.teacher_forcing_input[moved])
    assert torch.equal(wrong.indices[0], right.indices[0])  # nothing before the first scale was wrong


def test_a_higher_resolution_starts_from_a_lower_one(tmp_path: Path) -> None:
    config = tiny_text_config()
    tokenizer, hart = tiny_model(config)
    save_model(tmp_path, config, tokenizer, hart)
    larger = (1, 2, 3, 4, 6)
    sizes = config.transformer.replace(scales=larger)
    goal = Hart(config.replace(tokenizer=config.tokenizer.replace(scales=larger), transformer=sizes))
    start_from(goal, str(tmp_path))
    assert same_weights(goal, hart)
    discrete = Hart(config.replace(diffusion=None))
    start_from(discrete, str(tmp_path))
    assert torch.equal(discrete.transformer.word_embed.weight, hart.transformer.word_embed.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"depth": 1}, "transformer.depth is 2 there and 1 in the recipe"), ({"qk_norm": True}, "qk_norm is false there")],
)
def test_other_sizes_to_start_from_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = tiny_text_config()
    save_model(tmp_path, config, *tiny_model(config))
    with pytest.raises(ConfigError, match=message):
        start_from(Hart(tiny_text_config(**change)), str(tmp_path))


@pytest.mark.parametrize("change", [{"mlp": "swiglu"}, {"mlp": "gelu"}, {"modulation": "linear"}], ids=str)
def test_a_deeper_transformer_begins_as_the_one_that_it_starts_from(tmp_path: Path, change: dict[str, Any]) -> None:
    config = tiny_text_config(**change)
    save_model(tmp_path, config, *(parts := tiny_model(config)))
    deep = Hart(tiny_text_config(depth=5, **change)).eval()
    start_from(deep, str(tmp_path))
    given = random_context(config, 2), teacher_input(config, 2)
    theirs, ours = (hart.transformer(*given).hidden for hart in (parts[1], deep))
    assert torch.equal(theirs, ours)
    first, idle = deep.transformer.blocks[:2]
    assert torch.equal(first.attention.qkv.weight, idle.attention.qkv.weight), "and has something to learn from"
    with pytest.raises(ConfigError, match="depth is 2 there and 5 in the recipe"):
        start_from(deep, str(tmp_path), frozen=True)


def test_a_span_of_positions_stays_as_it_was_learned(tmp_path: Path) -> None:
    """A model without one gets it with a larger size; adapters see the positions of the model that they are for."""
    for span in (0, 2):
        config = tiny_text_config(position_span=span)
        save_model(tmp_path / str(span), config, *tiny_model(config))
    start_from(Hart(tiny_text_config(position_span=2)), str(tmp_path / "0"))
    start_from(Hart(tiny_text_config(position_span=2)), str(tmp_path / "2"), frozen=True)
    start_from(Hart(tiny_text_config(position_span=4)), str(tmp_path / "0"), frozen=True)  # its own last scale is 4
    with pytest.raises(ConfigError, match="position_span is 2 there and 0 in the recipe"):
        start_from(Hart(tiny_text_config()), str(tmp_path / "2"))
    with pytest.raises(ConfigError, match="position_span is 0 there and 2 in the recipe"):
        start_from(Hart(tiny_text_config(position_span=2)), str(tmp_path / "0"), frozen=True)


def test_a_table_of_levels_goes_to_other_scales_by_their_size(tmp_path: Path) -> None:
    """Scales that are known keep their level, and a new one begins with that of the nearest."""
    config = tiny_text_config(level_embedding="table")
    tokenizer, hart = tiny_model(config)
    save_model(tmp_path, config, tokenizer, hart)
    assert config.transformer.scales == (1, 2, 3, 4)
    sizes = config.transformer.replace(scales=(1, 2, 4, 8))
    goal = Hart(config.replace(tokenizer=config.tokenizer.replace(scales=sizes.scales), transformer=sizes))
    start_from(goal, str(tmp_path))
    ours, theirs = (one.state_dict()["transformer.level_embedding.embedding.weight"] for one in (goal, hart))
    assert torch.equal(ours, theirs[[0, 1, 3, 3]])


def test_a_masked_last_scale_starts_from_a_model_without_one(tmp_path: Path) -> None:
    """Where no code is given it predicts as before; given tokens have a level, at first the last scale's."""
    config = tiny_text_config(level_embedding="table")
    tokenizer, hart = tiny_model(config)
    save_model(tmp_path, config, tokenizer, hart)
    goal = Hart(tiny_text_config(level_embedding="table", masked_last_scale=True)).eval()
    start_from(goal, str(tmp_path))
    ours, theirs = (one.state_dict()["transformer.level_embedding.embedding.weight"] for one in (goal, hart))
    assert torch.equal(ours, theirs[[0, 1, 2, 3, 3]])
    with torch.no_grad():
        maps, context = tokenizer.token_maps(tokenizer.encode(random_image(2))), random_context(config, 2)
        assert torch.equal(goal(context, maps).logits, hart(context, maps).logits)
    again = Hart(goal.config)
    save_model(tmp_path / "masked", goal.config, tokenizer, goal)
    start_from(again, str(tmp_path / "masked"))
    assert torch.equal(again.state_dict()["transformer.level_embedding.embedding.weight"], ours)
    for frozen in (False, True):
        with pytest.raises(ConfigError, match="masked_last_scale is true there and false in the recipe"):
            start_from(Hart(config), str(tmp_path / "masked"), frozen=frozen)


def test_another_tokenizers_model_lends_what_lies_between_its_tokens(tmp_path: Path) -> None:
    config = tiny_text_config(level_embedding="table")
    _, hart = tiny_model(config)
    save_model(tmp_path, config, tiny_model(config)[0], hart)
    tokens = {"codebook_size": 2 * config.transformer.codebook_size, "scales": (1, 2, 4)}
    goal = Hart(
        config.replace(tokenizer=config.tokenizer.replace(**tokens), transformer=config.transformer.replace(**tokens))
    )
    before = {name: value.clone() for name, value in goal.state_dict().items()}
    start_from(goal, str(tmp_path))
    theirs = hart.state_dict()
    for name, value in goal.state_dict().items():
        own = name.startswith(("residual.", *(f"transformer.{layer}" for layer in TOKEN_LAYERS)))
        assert torch.equal(value, before[name] if own else theirs[name]), name
    with pytest.raises(ConfigError, match="tokens have other sizes"):
        start_from(goal, str(tmp_path), frozen=True)


# torch says that its fused RMSNorm does not serve bfloat16 beside float32 weights: slower, not wrong
@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")
def test_the_stage_runs_from_captions_to_a_model_and_images(tmp_path: Path) -> None:
    tokenizer, _ = tiny_model(tiny_text_config())
    save_tokenizer(tmp_path / "tokenizer", tokenizer)
    text = TextConditioning(width=384, tokens=16)
    config = tiny_text_config(text=text)
    recipe = transformer_recipe(
        config,
        tokenizer=str(tmp_path / "tokenizer"),
        text_encoder=str(SHIPPED_MODELS / "emoji"),
        trainer=TrainerConfig(steps=2, batch_size=2, sample_every=2, precision="bfloat16"),
    )
    task = TransformerTask(recipe, captioned_images(3))
    microbatch = Microbatch(0, 0, 2, slice(0, 2))
    before = task.batch(microbatch)
    Trainer(task, recipe, tmp_path / "run").run()
    after = task.batch(microbatch)
    assert torch.equal(before.maps.teacher_forcing_input, after.maps.teacher_forcing_input), "encoded ahead or not"
    assert torch.equal(before.context.embeddings, after.context.embeddings)
    assert before.context.embeddings.dtype == torch.float32
    assert (tmp_path / "run" / "samples" / "step-00000002-generated.png").exists()
    assert load_model(tmp_path / "run" / "model").config.diffusion == config.diffusion


def test_coarse_codes_are_those_of_the_model_that_is_trained(tmp_path: Path) -> None:
    """Of a tokenizer with scales of another size; some shapes are as large as the model's own to rounding only."""
    base, scales = (1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6, 8, 11, 16)
    config = tiny_class_config()
    tokenizer = HybridTokenizer(config.tokenizer.replace(scales=base, base_scales=base))
    save_tokenizer(tmp_path, tokenizer)
    sizes = config.transformer.replace(scales=scales)
    given = transformer_recipe(config, tokenizer=str(tmp_path), transformer=sizes)
    task = TransformerTask(given, replace(captioned_images(2), labels=torch.tensor([0, 1])))
    oblong = schedule_of_grid(scales, Grid(7, 39))
    assert tokenizer.smaller(oblong) is None
    assert task.tokenizer.smaller(oblong) == HybridTokenizer(task.config.tokenizer).smaller(oblong) is not None
