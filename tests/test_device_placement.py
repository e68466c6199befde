"""Nothing that runs on an accelerator mixes devices, and the host waits for it as rarely as it should.

Nor does anything need what an Apple GPU has not (see `stand_in_device`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clip_models import IMAGE_SIZE, save_tiny_clip
from hart.checkpoint.loading import load_model, load_tokenizer, random_model
from hart.config import HartConfig
from hart.data.transforms import unit_to_pixels
from hart.evaluation.judges.scores import ClipScore
from hart.evaluation.metrics.features import EfficientNetLite
from hart.evaluation.suites.tokenizer import Measure
from hart.generation.edits import Edit, SecondPrompts, batch_edits
from hart.generation.next_scale import NextScaleGenerator
from hart.generation.noise import SeededNoise
from hart.losses.config import TransformerLossConfig
from hart.networks.image_reward import RewardNetwork
from hart.networks.inception import FidInception, resize_like_tensorflow
from hart.networks.perceptual import perceptual_loss
from hart.pipeline import HartPipeline
from hart.text_encoder import load_text_encoder
from hart.text_encoder.base import RandomTextFeatures
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.config import (
    DiscriminatorConfig,
    OptimizerConfig,
    ReadingConfig,
    TokenizerRecipe,
    TrainerConfig,
)
from hart.training.distributed import DistributedContext
from hart.training.step import Stepper
from hart.training.task import Task
from hart.training.tokenizer_task import TokenizerTask
from hart.training.transformer_task import TransformerTask
from hart.types import ClassContext
from helpers import captioned_images, tiny_class_config, tiny_text_config, tiny_tokenizer_config, transformer_recipe
from models import save_tiny_text_model
from reward_models import SIZES, use
from stand_in_device import DEVICE, Traffic, stand_in

BATCH = 2
CPU = torch.device("cpu")
SCALES = (1, 2, 3)
"""A first, a middle and a last one: operators on tensors without content are slow."""
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, kind="muon")
TRAINER = TrainerConfig(steps=4, batch_size=BATCH, precision="bfloat16", checkpoint_every=4)


def of_few_scales(config: HartConfig) -> HartConfig:
    tokenizer, transformer = (part.replace(scales=SCALES) for part in (config.tokenizer, config.transformer))
    diffusion = config.diffusion and config.diffusion.replace(depth=1, sampling_steps=2)
    return config.replace(tokenizer=tokenizer, transformer=transformer, diffusion=diffusion)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # a pipeline copies what it is given
@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (
            of_few_scales(tiny_text_config(modulation="table", qk_norm=True, depth=1)),
            {"maskgit_steps": 2, "top_p": 0.9},
        ),
        (of_few_scales(tiny_class_config(depth=1)), {"gumbel_smoothing": False, "guidance_scale": 0.0}),
    ],
    ids=["text", "class"],
)
def test_an_image_is_generated_on_one_device(config: HartConfig, changes: dict[str, Any]) -> None:
    text = config.transformer.text
    with stand_in() as traffic:
        tokenizer, hart = random_model(config, torch.Generator(), dtype=torch.bfloat16)
        encoder = None if text is None else RandomTextFeatures(text, 0)
        pipe = HartPipeline(config, tokenizer, hart, device=DEVICE, dtype=torch.bfloat16, text_encoder=encoder)
        if text is None:
            context: Any = ClassContext(torch.zeros(BATCH, dtype=torch.int64, device=DEVICE), pipe.num_classes or 0)
        else:
            context = RandomTextFeatures(text, 0).encode(["a"] * BATCH).to(DEVICE)
        settings = config.sampling.replace(**changes)
        # images of different people: half of them with settings of their own
        rows = [settings, settings.replace(top_k=3, top_p=None, guidance_scale=2.0, gumbel_smoothing=True)]
        before = traffic.waits, traffic.sent
        noise = SeededNoise([3, 2**40], DEVICE)
        latent = NextScaleGenerator(pipe.hart, pipe.tokenizer.quantizer, rows, noise)(context)
        pixels = unit_to_pixels((pipe.tokenizer.decode(latent).float() + 1) / 2)
        assert pixels.shape == (BATCH, pipe.image_size, pipe.image_size, 3)
        assert pixels.device == DEVICE
        assert traffic.waits == before[0], "between text and pixels the host waits for nothing"
        scales = len(config.transformer.scales)
        assert traffic.sent - before[1] <= BATCH * (3 * scales + 2 + 1), "only the settings and seeds are sent"


def test_what_an_apple_gpu_lacks_is_refused() -> None:
    with stand_in():
        for made in (
            lambda: torch.arange(3, device=DEVICE, dtype=torch.float64),
            lambda: torch.ones(1).double().to(DEVICE),
        ):
            with pytest.raises(TypeError, match="MPS has no"):
                made()
        bytes_ = torch.zeros(32, 32, dtype=torch.int8, device=DEVICE)
        with torch.inference_mode(), pytest.raises(NotImplementedError, match="MPS has no kernel"):
            torch._int_mm(bytes_, bytes_)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_figures_of_images_are_computed_on_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.networks.pretrained.fingerprint", lambda _: "")  # of weights without content
    config = tiny_tokenizer_config().replace(scales=(1, 2, 32))  # smaller images are too small for the networks
    use(SIZES, monkeypatch)
    reward, judge = RewardNetwork(), ClipScore(str(save_tiny_clip(tmp_path)), CPU)
    pixels = torch.zeros(BATCH, 3, config.image_size, config.image_size, dtype=torch.uint8)
    with stand_in():
        tokenizer = HybridTokenizer(config).eval().requires_grad_(False).to(DEVICE)
        distance = perceptual_loss("efficientnet_lite0", ()).to(DEVICE)
        lite = EfficientNetLite(DEVICE)
        scores = Measure(tokenizer, config.schedule, DEVICE, lite, distance, "distance")(pixels)
        assert {value.device for value in scores.values()} == {CPU}
        inception = FidInception().eval().to(DEVICE)
        assert inception(resize_like_tensorflow(pixels.to(DEVICE).float(), 299)).pooled.device == DEVICE
        judge.network.to(DEVICE)
        judge.device = DEVICE
        assert judge(torch.zeros(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8), ["a"] * BATCH).device == CPU
        side, tokens = SIZES.image_size, torch.ones(BATCH, 4, dtype=torch.int64, device=DEVICE)
        assert (
            reward.to(DEVICE)(torch.zeros(BATCH, 3, side, side, device=DEVICE), tokens, tokens).dtype == torch.float64
        )


class MovedFeatures(RandomTextFeatures):
    """Text features that know where they were moved to last."""

    place: torch.device | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> MovedFeatures:
        self.place = device
        return self


def test_a_text_encoder_is_off_the_device_between_prompts_only_where_that_is_asked() -> None:
    config = of_few_scales(tiny_text_config(depth=1))
    with stand_in():
        tokenizer, hart = random_model(config, torch.Generator(), dtype=torch.bfloat16)
        assert config.transformer.text is not None
        encoder = MovedFeatures(config.transformer.text, 0)
        pipe = HartPipeline(config, tokenizer, hart, device=DEVICE, dtype=torch.bfloat16, text_encoder=encoder)
        pipe.optimize(pipe.speed.replace(offload=True))
        pipe.encode_prompt("a cat")
        assert encoder.place == torch.device("cpu")
        pipe.optimize(pipe.speed.replace(offload=False))
        assert encoder.place == DEVICE
        pipe.encode_prompt("a cat")
        assert encoder.place == DEVICE


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_edits_wait_for_nothing_between_scales() -> None:
    config = of_few_scales(tiny_text_config(depth=1))
    with stand_in() as traffic:
        tokenizer, hart = random_model(config, torch.Generator(), dtype=torch.bfloat16)
        assert config.transformer.text is not None
        encoder = RandomTextFeatures(config.transformer.text, 0)
        pipe = HartPipeline(config, tokenizer, hart, device=DEVICE, dtype=torch.bfloat16, text_encoder=encoder)
        context, scales = encoder.encode(["a"] * BATCH).to(DEVICE), len(config.transformer.scales)
        redraw = torch.ones(pipe.image_size, pipe.image_size, dtype=torch.bool)
        pixels = torch.zeros(3, pipe.image_size, pipe.image_size, dtype=torch.uint8)
        edits = batch_edits(
            [
                Edit(pixels, redraw, source_prompt="a", followed_scales=2, style_strength=1.0, style=pixels),
                Edit(pixels, kept_scales=scales, style_strength=1.0),
            ],
            pipe.components.encode,
            pipe.tokenizer.quantizer,
            config.tokenizer.schedule,
        )
        second = SecondPrompts(context, torch.zeros(BATCH, scales, device=DEVICE))
        settings, noise = config.sampling.replace(maskgit_steps=2), SeededNoise([3, 4], DEVICE)
        generator = NextScaleGenerator(pipe.hart, pipe.tokenizer.quantizer, settings, noise, edits=edits)
        before = traffic.waits, traffic.sent
        for state in generator.states(context, second=second):
            assert state.latent.device == DEVICE
        assert (traffic.waits, traffic.sent) == before
        states = generator.states(context, second=second)  # and when one of the images is left out
        next(states)
        assert len(states.send([1]).latent) == len(next(states).latent) == 1
        assert traffic.waits == before[0]


def trained(task: Task, trainer: TrainerConfig, traffic: Traffic) -> tuple[int, int]:
    """How often the host waits in the second step of a task, and the numbers that it sends."""
    distributed = DistributedContext(trainer)
    distributed.device = DEVICE
    stepper = Stepper(task, trainer, distributed)
    stepper.step(0)
    before = traffic.waits, traffic.sent
    stepper.step(1)
    return traffic.waits - before[0], traffic.sent - before[1]


def test_the_tokenizer_trains_on_one_device() -> None:
    recipe = TokenizerRecipe(
        data="",
        trainer=TRAINER,
        optimizer=OPTIMIZER.replace(kind="adamw"),
        reading=ReadingConfig(on_device=True),
        tokenizer=tiny_tokenizer_config(),
        adversarial=DiscriminatorConfig(optimizer=OPTIMIZER.replace(kind="adamw"), width=16, layers=1),
        revive_every=0,
    )
    with stand_in() as traffic:
        waits, sent = trained(TokenizerTask(recipe, captioned_images(BATCH), DEVICE), TRAINER, traffic)
    assert waits == 0
    assert sent <= BATCH  # which images; the images are there


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")  # of constants without content that are copied
def test_the_transformer_trains_on_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_text_model(tmp_path)
    config = load_model(model).config
    assert config.text_encoder is not None
    assert config.diffusion is not None
    tokenizer, encoder = load_tokenizer(model), load_text_encoder(config.text_encoder, model)
    monkeypatch.setattr("hart.training.transformer_task.load_tokenizer", lambda _: tokenizer)
    monkeypatch.setattr("hart.training.conditions.load_text_encoder", lambda *_: encoder)
    recipe = transformer_recipe(
        config,
        tokenizer=str(model),
        text_encoder=str(model),
        transformer=config.transformer.replace(depth=1),
        diffusion=config.diffusion.replace(depth=1),
        trainer=TRAINER,
        optimizer=OPTIMIZER,
        reading=ReadingConfig(on_device=True),
        augmentations=2,
        code_corruption=0.3,
        loss=TransformerLossConfig(cluster_weight=0.5, clusters=2),
    )
    with stand_in() as traffic:
        task = TransformerTask(recipe, captioned_images(BATCH), DEVICE)
        task.prepare()
        waits, sent = trained(task, TRAINER, traffic)
    assert waits == 0
    noise = BATCH * config.diffusion.batch_multiplier * config.transformer.schedule.token_counts[-1]
    assert sent < 2 * noise * config.transformer.latent_channels  # a GPU samples this itself
