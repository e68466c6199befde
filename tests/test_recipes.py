"""The recipes are read by the stage that they are for, and the paper's build the paper's models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from hart.presets import SCALES_256, SCALES_512, SCALES_1024, VAR_SAMPLING, hart_imagenet, hart_text_to_image
from hart.sizes import scales_of_size
from hart.training.config import Recipe, TokenizerRecipe, TransformerRecipe
from hart.training.distributed import DistributedContext
from hart.training.dry_run import RehearsedTokenizer, RehearsedTransformer
from hart.training.step import Stepper

CPU = torch.device("cpu")
RECIPES = Path(__file__).parent.parent / "recipes"
TOKENIZERS, TRANSFORMERS = (
    sorted(path for path in RECIPES.rglob("*.toml") if f"[{stage}]" in path.read_text(encoding="utf-8"))
    for stage in ("tokenizer", "transformer")
)


def test_there_are_recipes_for_every_stage_of_the_paper() -> None:
    names = {path.relative_to(RECIPES).as_posix() for path in (*TOKENIZERS, *TRANSFORMERS)}
    stages = {f"hart-0.7b/{stage}.toml" for stage in ("tokenizer-discrete", "tokenizer", "256", "512", "1024")}
    assert names >= stages | {f"imagenet/hart-d{depth}.toml" for depth in (16, 20, 24, 30)}


@pytest.mark.parametrize("path", [*TOKENIZERS, *TRANSFORMERS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_is_read_and_says_how_it_is_run(path: Path) -> None:
    kind, stage = (TokenizerRecipe, "tokenizer") if path in TOKENIZERS else (TransformerRecipe, "transformer")
    kind.read(path)
    if path.parent.name == "ablations" and stage == "transformer":
        assert "benchmarks/ablations.py" in path.read_text(encoding="utf-8")  # trains variants of it
        return
    assert f"hart train {stage} recipes/{path.relative_to(RECIPES).as_posix()}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("image_size", "scales"), [(256, SCALES_256), (512, SCALES_512), (1024, SCALES_1024)])
def test_the_text_recipes_build_the_released_model(image_size: int, scales: tuple[int, ...]) -> None:
    recipe, preset = TransformerRecipe.read(RECIPES / f"hart-0.7b/{image_size}.toml"), hart_text_to_image(scales)
    assert (recipe.transformer, recipe.diffusion) == (preset.transformer, preset.diffusion)
    assert preset.tokenizer.image_size == image_size
    assert preset.text_encoder is not None
    assert recipe.text_encoder == preset.text_encoder.source
    assert recipe.text_instruction == preset.text_encoder.instruction


@pytest.mark.parametrize("depth", [16, 20, 24, 30])
def test_the_imagenet_recipes_build_the_paper_s_models(depth: int) -> None:
    recipe, preset = TransformerRecipe.read(RECIPES / f"imagenet/hart-d{depth}.toml"), hart_imagenet(depth)
    assert (recipe.transformer, recipe.diffusion) == (preset.transformer, preset.diffusion)
    assert recipe.sampling == VAR_SAMPLING


def test_the_imagenet_recipes_are_trained_as_var_was() -> None:
    """VAR's published commands, --alng, --wpe, --twde by depth, and its crops: at random, from 1.125 times the size."""
    recipes = [TransformerRecipe.read(RECIPES / f"imagenet/hart-d{depth}.toml") for depth in (16, 20, 24, 30)]
    assert {recipe.optimizer.schedule for recipe in recipes} == {"linear"}
    assert [recipe.gate_gain for recipe in recipes] == [1e-3, 1e-3, 1e-4, 1e-5]
    assert [recipe.optimizer.final_fraction for recipe in recipes] == [0.1, 0.1, 0.01, 0.01]
    assert [recipe.optimizer.final_weight_decay for recipe in recipes] == [None, None, None, 0.08]
    crops = {(recipe.reading.crop, recipe.reading.shorter_side, recipe.reading.flip) for recipe in recipes}
    assert crops == {("random", 1.125, 0.0)}


def test_the_tokenizer_of_photographs_starts_at_half_the_size_with_scales_derived_from_the_paper_s() -> None:
    recipe = TokenizerRecipe.read(RECIPES / "ablations/photos.toml")
    assert recipe.tokenizer.scales == SCALES_256
    assert scales_of_size(recipe.tokenizer.scales, recipe.tokenizer.downsampling, 128) == (1, 2, 3, 4, 5, 6, 8)


def test_the_tokenizer_recipe_tunes_the_decoder_of_the_released_sizes() -> None:
    recipe = TokenizerRecipe.read(RECIPES / "hart-0.7b/tokenizer.toml")
    assert recipe.tokenizer == hart_text_to_image(SCALES_256).tokenizer
    assert recipe.decoder_only
    assert recipe.init_from
    assert recipe.discrete_probability == 0.5
    assert (recipe.loss.squared, recipe.loss.reconstruction) == (1.0, 0.0), "as `compute_loss` of the published code"
    assert recipe.perceptual is not None
    assert (recipe.perceptual.kind, recipe.perceptual.weight) == ("lpips", 1.0)
    assert recipe.adversarial is not None
    assert (recipe.adversarial.weight, recipe.adversarial.width, recipe.adversarial.layers) == (0.5, 64, 3)


def test_the_discrete_tokenizer_is_one_that_the_hybrid_one_can_start_from() -> None:
    discrete, hybrid = (
        TokenizerRecipe.read(RECIPES / f"hart-0.7b/{name}.toml") for name in ("tokenizer-discrete", "tokenizer")
    )
    assert discrete.tokenizer == hybrid.tokenizer
    assert discrete.discrete_probability == 1.0
    assert not discrete.decoder_only
    assert not discrete.init_from


def narrow_trainer(recipe: Recipe) -> Recipe:
    """The recipe with two images a step, on the CPU; in parts still where it had parts."""
    trainer = recipe.trainer
    return recipe.replace(trainer=trainer.replace(device="cpu", batch_size=2, accumulate=min(trainer.accumulate, 2)))


def narrow_tokenizer(path: Path) -> RehearsedTokenizer:
    recipe = narrow_trainer(TokenizerRecipe.read(path))
    assert isinstance(recipe, TokenizerRecipe)
    # 32 px: the least that the discriminator takes
    sizes = recipe.tokenizer.replace(scales=(1, 2), base_channels=32, channel_multipliers=(1,) * 5, residual_blocks=1)
    return RehearsedTokenizer(recipe.replace(tokenizer=sizes), CPU)


def narrow_transformer(path: Path) -> RehearsedTransformer:
    recipe = narrow_trainer(TransformerRecipe.read(path))
    assert isinstance(recipe, TransformerRecipe)
    sizes = recipe.transformer.replace(scales=(1, 2, 7), width=32, depth=2, heads=2, codebook_size=32)
    if sizes.text is not None:
        sizes = sizes.replace(text=sizes.text.replace(width=8, tokens=4))
    assert recipe.diffusion is not None
    return RehearsedTransformer(
        recipe.replace(transformer=sizes, diffusion=recipe.diffusion.replace(width=32, depth=1)), CPU
    )


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")
@pytest.mark.parametrize(
    "path",
    [path for path in (*TOKENIZERS, *TRANSFORMERS) if path.parent.name in ("hart-0.7b", "imagenet")],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_a_stage_of_the_paper_takes_steps_at_reduced_width(path: Path) -> None:
    """Losses, precision, optimiser and schedule as written; the discriminator takes part from the first step on."""
    task = narrow_tokenizer(path) if path in TOKENIZERS else narrow_transformer(path)
    trainer = task.recipe.trainer
    stepper = Stepper(task, trainer, DistributedContext(trainer))
    trained = {
        name: p
        for optimized in task.optimized.values()
        for name, p in optimized.module.named_parameters()
        if p.requires_grad
    }
    before = {name: p.detach().clone() for name, p in trained.items()}
    figures = [stepper.step(step).read() for step in range(2)]
    assert all(math.isfinite(value) for step in figures for value in step.values())
    assert any(not torch.equal(p, before[name]) for name, p in trained.items())
