"""Stage `tokenizer` on a handful of images in memory: it learns, resumes exactly, and freezes what it should."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hart.checkpoint.loading import load_model, load_tokenizer, save_model, save_tokenizer, tokenizer_config
from hart.config import ConfigError
from hart.data.datasets import CaptionedImages
from hart.data.transforms import to_signed
from hart.errors import HartError
from hart.losses.config import PerceptualConfig
from hart.networks.perceptual import Lpips
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.config import DiscriminatorConfig, OptimizerConfig, TokenizerRecipe, TrainerConfig
from hart.training.distributed import DistributedContext
from hart.training.dry_run import RehearsedTokenizer, activation_bytes, measure
from hart.training.task import Microbatch, TrainContext
from hart.training.tokenizer_task import TokenizerTask, fresh_tokenizer
from hart.training.trainer import Trainer
from helpers import captioned_images, same_weights, tiny_model, tiny_text_config, tiny_tokenizer_config
from training_state import assert_resumes, log_lines

RECIPE = TokenizerRecipe(
    data="",
    tokenizer=tiny_tokenizer_config(),
    trainer=TrainerConfig(steps=4, batch_size=4, checkpoint_every=2, log_every=2),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=1),
    revive_every=2,
)
ADVERSARIAL = RECIPE.replace(
    adversarial=DiscriminatorConfig(
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0), start_step=1, width=16, layers=1, norm="group"
    )
)
GOLDEN = Path(__file__).parent.parent / "golden"


@torch.no_grad()
def reconstruction_psnr(tokenizer: HybridTokenizer, data: CaptionedImages) -> dict[str, float]:
    """In dB, from codes alone and from the continuous latent."""
    image = to_signed(torch.stack([data.pixels[i] for i in range(len(data))]))
    rebuilt = zip(("discrete", "continuous"), tokenizer.reconstruct(image), strict=True)
    errors = {name: F.mse_loss(decoded, image) for name, decoded in rebuilt}
    return {name: float(10 * torch.log10(4 / error)) for name, error in errors.items()}


def test_it_learns_one_batch(tmp_path: Path) -> None:
    recipe = RECIPE.replace(trainer=RECIPE.trainer.replace(steps=60, log_every=20, checkpoint_every=60))
    data = captioned_images()
    task = TokenizerTask(recipe, data)
    before = reconstruction_psnr(task.module.eval(), data)
    Trainer(task, recipe, tmp_path).run()
    after = reconstruction_psnr(task.module.eval(), data)
    assert after["continuous"] > before["continuous"] + 3
    assert after["discrete"] > before["discrete"] + 1
    assert {"loss", "l1_discrete", "l1_continuous", "quantizer"} <= log_lines(tmp_path)[-1].keys()


def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(tmp_path: Path) -> None:
    """Also where the discriminator begins after the stop."""
    assert ADVERSARIAL.adversarial is not None
    recipe = ADVERSARIAL.replace(adversarial=ADVERSARIAL.adversarial.replace(start_step=3))
    whole = assert_resumes(lambda out: Trainer(TokenizerTask(recipe, captioned_images()), recipe, out), tmp_path, 4)
    average = whole["weights"]["average"]
    assert not any(name.startswith("discriminator") for name in average), "the tokenizer alone is averaged"


def test_the_discriminator_is_heard_from_its_start_step_on(tmp_path: Path) -> None:
    recipe = ADVERSARIAL.replace(trainer=RECIPE.trainer.replace(log_every=1, steps=2))
    task = TokenizerTask(recipe, captioned_images())
    assert task.discriminator is not None
    before = {name: value.clone() for name, value in task.discriminator.state_dict().items()}
    Trainer(task, recipe, tmp_path).run()
    heard = {"adversarial", "adaptive_weight", "discriminator_loss", "score_real", "score_fake"}
    before_it, from_it_on = log_lines(tmp_path)
    assert not heard & before_it.keys()
    assert heard <= from_it_on.keys()
    assert from_it_on["adaptive_weight"] > 0
    moved = [name for name, value in task.discriminator.state_dict().items() if not value.equal(before[name])]
    assert len(moved) >= len(before) - 1, "the bias of the last layer may rest: the halves of the hinge cancel there"


def test_the_adversarial_term_weighs_as_its_gradients_say() -> None:
    task = TokenizerTask(ADVERSARIAL, captioned_images())
    batch = task.batch(Microbatch(0, 1, 4, slice(0, 4)))
    task.add_adaptive_weight([batch], TrainContext())
    total, parts = task.loss("model", batch)
    l1 = next(value for name, value in parts.items() if name.startswith("l1"))
    last = task.module.decoder.conv_out.weight
    wanted, given = (
        torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (l1, parts["adversarial"])
    )
    torch.testing.assert_close(parts["adaptive_weight"], wanted / (given + 1e-4))
    weighted = 0.5 * parts["adaptive_weight"] * parts["adversarial"]
    torch.testing.assert_close(total, l1 + parts["quantizer"] + weighted)
    assert batch.reconstruction is not None and not batch.reconstruction.requires_grad


@pytest.mark.parametrize("corrupted", [False, True])
def test_parts_of_a_batch_have_the_adaptive_weight_of_the_whole(tmp_path: Path, start: str, corrupted: bool) -> None:
    faults = {"init_from": start, "decoder_only": True, "code_corruption": 0.5, "residual_corruption": 0.5}
    weights, heard = [], []
    for parts in (1, 2):
        gentle = RECIPE.optimizer.replace(learning_rate=1e-5, warmup_steps=0)
        trainer = RECIPE.trainer.replace(log_every=1, steps=2, accumulate=parts, activation_checkpointing=parts == 2)
        recipe = ADVERSARIAL.replace(trainer=trainer, optimizer=gentle, **faults if corrupted else {})
        task = TokenizerTask(recipe, captioned_images())
        Trainer(task, recipe, tmp_path / str(parts)).run()
        weights.append(task.module.state_dict())
        heard.append(log_lines(tmp_path / str(parts))[-1])
    assert heard[0] == pytest.approx(heard[1], rel=1e-4)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=0)


def test_the_use_of_the_codebook_is_reported_by_scale(tmp_path: Path) -> None:
    recipe = RECIPE.replace(revive_every=0, trainer=RECIPE.trainer.replace(steps=3))
    task = TokenizerTask(recipe, captioned_images())
    seen: list[tuple[torch.Tensor, ...]] = []
    original = task.module.quantizer.encode

    def watched(*arguments: Any) -> Any:
        quantized = original(*arguments)
        seen.append(quantized.indices)
        return quantized

    task.module.quantizer.encode = watched  # type: ignore[method-assign]
    Trainer(task, recipe, tmp_path).run()
    # checkpoint_every is 2: the first two steps, then the last one
    for steps, figures in zip((seen[:2], seen[2:]), log_lines(tmp_path), strict=True):
        for k in range(4):
            chosen = torch.cat([indices[k].flatten() for indices in steps])
            share = torch.bincount(chosen, minlength=24) / len(chosen)
            entropy = -(share * share.clamp(min=1e-9).log()).sum()
            assert figures[f"codes_used_{k}"] == pytest.approx(len(chosen.unique()) / 24)
            assert figures[f"perplexity_{k}"] == pytest.approx(float(entropy.exp()), rel=1e-4)
        assert "dead_codes" not in figures


def test_squared_error_and_a_perceptual_loss_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def made(kind: str, files: Any) -> torch.nn.Module:
        asked.append((kind, files))
        return Lpips()

    monkeypatch.setattr("hart.training.tokenizer_task.perceptual_loss", made)
    perceptual = PerceptualConfig(kind="lpips", weight=0.5, files=("vgg16.pth", "vgg.pth"))
    tokenizer = RECIPE.tokenizer.replace(channel_multipliers=(1, 1, 1), scales=(1, 2, 4))
    recipe = RECIPE.replace(
        perceptual=perceptual, loss=RECIPE.loss.replace(reconstruction=0.0, squared=2.0), tokenizer=tokenizer
    )
    task = TokenizerTask(recipe, _large_images())
    assert asked == [("lpips", ("vgg16.pth", "vgg.pth"))]
    total, parts = task.loss("model", task.batch(Microbatch(0, 0, 1, slice(0, 1))))
    torch.testing.assert_close(total, 2 * parts["squared"] + 0.5 * parts["perceptual"] + parts["quantizer"])
    unheard = TokenizerTask(recipe.replace(perceptual=perceptual.replace(weight=0.0)), _large_images())
    assert len(asked) == 1, "weight 0 reads no files"
    assert "perceptual" not in unheard.loss("model", unheard.batch(Microbatch(0, 0, 1, slice(0, 1))))[1]


def _large_images() -> CaptionedImages:
    """16 x 16 pixels, the least that VGG-16 halves four times."""
    small = captioned_images(2)
    pixels = torch.stack([small.pixels[i] for i in range(2)]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return CaptionedImages(pixels, (("a blob",),) * 2, torch.ones(2), ({},) * 2)


def test_a_rehearsal_has_every_loss_and_needs_no_files() -> None:
    assert ADVERSARIAL.adversarial is not None
    recipe = ADVERSARIAL.replace(
        perceptual=PerceptualConfig(kind="lpips", files=("nowhere.pth",)),
        adversarial=ADVERSARIAL.adversarial.replace(start_step=1000),
        tokenizer=RECIPE.tokenizer.replace(channel_multipliers=(1, 1, 1)),
        init_from="nowhere",
    )
    distributed = DistributedContext(recipe.trainer)
    task = RehearsedTokenizer(recipe, distributed.device)
    assert sum(p.numel() for p in task.optimized["discriminator"].module.parameters()) > 0
    assert measure(task, recipe.trainer, distributed, tokens=100) > 0
    assert 0 < activation_bytes(task, recipe.trainer, 2) < 14e6 * 4, "frozen weights are no activations"


@pytest.mark.parametrize("layout", ["t2i", "var-c2i"])
def test_the_decoder_of_a_published_tokenizer_is_tuned(tmp_path: Path, layout: str) -> None:
    source = load_tokenizer(GOLDEN / layout)
    assert tokenizer_config(GOLDEN / layout) == source.config
    assert same_weights(source, load_model(GOLDEN / layout).tokenizer)
    recipe = ADVERSARIAL.replace(
        tokenizer=source.config.replace(commitment_weight=0.0),
        init_from=str(GOLDEN / layout),
        decoder_only=True,
        revive_every=0,
        trainer=RECIPE.trainer.replace(steps=2, batch_size=2),
    )
    image_size = source.config.image_size
    pixels = torch.randint(
        256, (2, 3, image_size, image_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = CaptionedImages(pixels, (("noise",),) * 2, torch.ones(2), ({},) * 2)
    Trainer(TokenizerTask(recipe, data), recipe, tmp_path).run()
    assert log_lines(tmp_path)[-1]["adaptive_weight"] > 0
    tuned = load_tokenizer(tmp_path / "model")
    state = tuned.state_dict()
    moved = {name.split(".")[0] for name, value in source.state_dict().items() if not value.equal(state[name])}
    assert moved == {"decoder", "post_quant_conv"}
    image = to_signed(pixels)
    codes = (tokenizer.quantize(tokenizer.encode(image)).indices for tokenizer in (source, tuned))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*codes, strict=True)), "the codes mean what they did"


def test_the_seed_decides_the_starting_weights() -> None:
    torch.manual_seed(1)
    first = TokenizerTask(RECIPE, captioned_images()).module.state_dict()
    torch.manual_seed(2)
    second = TokenizerTask(RECIPE, captioned_images()).module.state_dict()
    other = TokenizerTask(
        RECIPE.replace(trainer=RECIPE.trainer.replace(seed=1)), captioned_images()
    ).module.state_dict()
    assert same_weights(first, second)
    assert not torch.equal(first["encoder.conv_in.weight"], other["encoder.conv_in.weight"])


@pytest.fixture
def start(tmp_path: Path) -> str:
    save_tokenizer(tmp_path / "start", fresh_tokenizer(RECIPE))
    return str(tmp_path / "start")


def test_a_decoder_learns_from_wrong_codes_of_discrete_latents_alone(start: str) -> None:
    recipe = RECIPE.replace(init_from=start, decoder_only=True, discrete_probability=1.0, code_corruption=1.0)
    microbatch = Microbatch(0, 0, 4, slice(0, 4))

    def latent(given: TokenizerRecipe) -> Tensor:
        task = TokenizerTask(given, captioned_images())
        return task._training_pass(task.batch(microbatch)).latent

    right = latent(recipe.replace(code_corruption=0.0))
    assert not torch.equal(latent(recipe), right)
    assert torch.equal(latent(recipe), latent(recipe))
    continuous = recipe.replace(discrete_probability=0.0)
    assert torch.equal(latent(continuous), latent(continuous.replace(code_corruption=0.0)))
    with pytest.raises(ConfigError, match="decoder alone: set decoder_only = true"):
        recipe.replace(decoder_only=False)


def test_a_decoder_learns_from_latents_as_a_transformer_samples_them(start: str) -> None:
    """Faults in codes and residual, always the same of an image, and none in the least case."""
    recipe = RECIPE.replace(init_from=start, decoder_only=True, discrete_probability=0.0, residual_corruption=1.0)

    def latent(given: TokenizerRecipe, rows: slice = slice(0, 4)) -> Tensor:
        task = TokenizerTask(given, captioned_images())
        batch = task.batch(Microbatch(0, 0, 4, rows))
        return task._training_pass(batch).latent

    exact = latent(recipe.replace(residual_corruption=0.0))
    wrong, wrong_codes = latent(recipe), latent(recipe.replace(code_corruption=1.0))
    for one, other in combinations((exact, wrong, wrong_codes), 2):
        assert not torch.allclose(one, other, atol=1e-3)
    torch.testing.assert_close(latent(recipe.replace(residual_corruption=1e-6)), exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(latent(recipe, slice(2, 4)), wrong[2:])
    with pytest.raises(ConfigError, match="residual_corruption is for the decoder alone"):
        recipe.replace(decoder_only=False)
    with pytest.raises(ConfigError, match="residual_corruption is for continuous latents"):
        recipe.replace(discrete_probability=1.0)
    with pytest.raises(ConfigError, match=r"trains the decoder of a tokenizer, .*: name it in init_from"):
        recipe.replace(init_from="")


def test_images_of_another_size_are_refused() -> None:
    larger = RECIPE.replace(tokenizer=RECIPE.tokenizer.replace(scales=(1, 2, 8)))
    with pytest.raises(HartError, match=r"images have 8x8 px, but the recipe is for 16x16 px"):
        TokenizerTask(larger, captioned_images()).batch(Microbatch(0, 0, 4, slice(0, 4)))


def test_codes_that_nothing_chose_move_onto_the_data(tmp_path: Path) -> None:
    task = TokenizerTask(RECIPE, captioned_images())
    codebook = task.module.quantizer.codebook.weight
    codebook.data[5:] = 1000.0  # far from every vector
    run = Trainer(task, RECIPE, tmp_path)
    run.run()
    assert log_lines(tmp_path)[0]["dead_codes"] >= 19, "a count, not diluted by the steps between"
    assert codebook.abs().max() < 100
    assert run.stepper.average.weights["quantizer.codebook.weight"].abs().max() < 100, "the average starts anew too"
    late = Microbatch(0, RECIPE.trainer.steps - 1, 4, slice(0, 4))
    codebook.data[5:] = 1000.0
    task.loss("model", task.batch(late))
    assert task.after_step(late, run.stepper)["dead_codes"] >= 19
    assert (codebook[5:] == 1000.0).all(), "the last third of training keeps the codebook"


def test_training_goes_on_from_any_model_of_the_same_sizes(tmp_path: Path) -> None:
    config = tiny_text_config()
    tokenizer, hart = tiny_model(config)
    save_model(tmp_path, config, tokenizer, hart)
    other_scales = RECIPE.replace(init_from=str(tmp_path), tokenizer=RECIPE.tokenizer.replace(scales=(1, 2, 4, 8)))
    task = TokenizerTask(other_scales, captioned_images())
    assert torch.equal(task.module.decoder.conv_out.weight, tokenizer.decoder.conv_out.weight)
    assert task.module.config.scales == (1, 2, 4, 8)
    save_tokenizer(tmp_path / "tuned", HybridTokenizer(RECIPE.tokenizer.replace(base_scales=(1, 2))))
    with pytest.raises(ConfigError, match=r"tokenizer.base_scales is \[1, 2\] there and \[\] in the recipe"):
        TokenizerTask(RECIPE.replace(init_from=str(tmp_path / "tuned")), captioned_images())
    narrow = RECIPE.replace(init_from=str(tmp_path), tokenizer=RECIPE.tokenizer.replace(codebook_size=8))
    with pytest.raises(ConfigError, match="codebook_size is 24 there and 8 in the recipe"):
        TokenizerTask(narrow, captioned_images())


def test_training_goes_on_with_patches_of_more_pixels(tmp_path: Path) -> None:
    tokenizer = TokenizerTask(RECIPE, captioned_images()).module
    save_tokenizer(tmp_path / "pixels", tokenizer)
    wider = RECIPE.replace(init_from=str(tmp_path / "pixels"), tokenizer=RECIPE.tokenizer.replace(patch_size=2))
    module = TokenizerTask(wider, captioned_images()).module.eval()
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module.quantize_image(large).latent, tokenizer.eval().quantize_image(small).latent)
    save_tokenizer(tmp_path / "patches", module)
    with pytest.raises(ConfigError, match="patch_size is 2 there and 1 in the recipe"):
        TokenizerTask(RECIPE.replace(init_from=str(tmp_path / "patches")), captioned_images())


def test_quantisation_stays_in_float32_under_autocast() -> None:
    task = TokenizerTask(RECIPE, captioned_images())
    image = task.batch(Microbatch(0, 0, 4, slice(0, 4))).image
    with torch.autocast("cpu", torch.bfloat16):
        latent = task.module.encode(image).float()
        inside = task.module.training_pass(image, discrete=True)
    outside = task.module.quantize(latent)
    assert torch.equal(inside.quantized.latent, outside.latent)


def test_reconstructions_are_shown() -> None:
    task = TokenizerTask(RECIPE, captioned_images(3))
    assert task.samples(0, task.module)["reconstructions"].size == (24, 24)  # type: ignore[attr-defined]
