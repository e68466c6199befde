"""What a run will cost, before it starts: memory, counted on tensors without data, and time, from real steps.

The memory of weights, gradients, moments and averages follows from their number. That of activations is the peak of the
real forward and backward pass of a process, on tensors that only have sizes: nothing is computed, and any model fits.
Time is measured on a few images and is proportional to their number.

Both use the real networks and losses of a stage on made-up images, texts and tokens: no data set, tokenizer or text
encoder is needed, and only reading images and encoding texts are left out.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hart.config import HartConfig, TokenizerConfig, TransformerConfig
from hart.devices import convolution_layout
from hart.losses.config import PerceptualConfig
from hart.losses.transformer_loss import (
    LARGEST_KEPT_SHARE,
    MEAN_KEPT_SHARE,
    kept_tokens,
    random_positions,
)
from hart.model import Hart
from hart.networks.perceptual import Lpips
from hart.randomness import CPU
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.tokenizer.quantizer import MultiScaleQuantizer
from hart.training.config import StagedRecipe, TokenizerRecipe, TrainerConfig, TransformerRecipe
from hart.training.distributed import DistributedContext
from hart.training.step import Stepper, recompute
from hart.training.task import Microbatch, Task, TrainContext
from hart.training.tokenizer_task import TokenizerBatch, TokenizerStage, fresh_tokenizer
from hart.training.transformer_task import TransformerBatch, TransformerStage, with_adapters
from hart.types import ClassContext, Context, TextContext, TokenMaps

MEASURED_TOKENS = 4096
"""A measured step has at most this many tokens, but at least one image."""
LARGEST_IMAGE = 10_000
"""Images with more tokens (above 1,024 px) are tried at a smaller size, since they would take minutes."""
LONG = 10.0
"""If the first step takes more seconds, no second one is made: the warm-up is then a small part of it, unless it
compiles."""
FLOAT_BYTES = 4
MOMENTS = {"adamw": 2, "muon": 1}
"""Numbers kept per parameter; for Muon that of its matrices, which are nearly all."""


def memory_of_weights(parameters: int, trained: int, optimizer: str, split: int = 1) -> dict[str, int]:
    """Return a process's bytes by kind. split: processes over which weights and what belongs to them are sharded."""
    weights, gradients = FLOAT_BYTES * parameters // split, FLOAT_BYTES * trained // split
    moments = gradients * MOMENTS[optimizer]
    return {"weights": weights, "gradients": gradients, "optimiser": moments, "average": gradients}


def checkpoint_bytes(parameters: int, trained: int, optimizer: str) -> int:
    return FLOAT_BYTES * (parameters + (1 + MOMENTS[optimizer]) * trained)


class RehearsedTokenizer(TokenizerStage):
    """Stage `tokenizer` on random images of the recipe's size, with the discriminator from the first step on."""

    def __init__(self, recipe: TokenizerRecipe, device: torch.device) -> None:
        adversarial = recipe.adversarial and recipe.adversarial.replace(start_step=0)
        # no codes are revived: on noise, codebook use means nothing
        super().__init__(recipe.replace(revive_every=0, adversarial=adversarial), device)

    def batch(self, microbatch: Microbatch) -> TokenizerBatch:
        size = self.recipe.tokenizer.image_size
        noise = torch.rand(microbatch.batch_size, 3, size, size, generator=microbatch.generator("rehearsal"))
        image = microbatch.mine(2 * noise - 1).to(self.device).contiguous(memory_format=convolution_layout(self.device))
        return TokenizerBatch(
            microbatch, image, self.recipe.tokenizer.schedule, discrete=self.recipe.discrete_probability == 1
        )

    def save(self, folder: Path, module: nn.Module) -> None: ...

    def starting_tokenizer(self) -> HybridTokenizer:
        """Return a fresh tokenizer: any weights will do."""
        return fresh_tokenizer(self.recipe)

    def perceptual_network(self, config: PerceptualConfig) -> nn.Module:
        """Return LPIPS with random weights: a rehearsal needs no files."""
        return Lpips() if config.kind == "lpips" else super().perceptual_network(config)


class RehearsedTransformer(TransformerStage):
    """Stage `transformer` on random tokens and texts or classes."""

    def __init__(
        self, recipe: TransformerRecipe, device: torch.device, *, kept: float = MEAN_KEPT_SHARE, empty: bool = False
    ) -> None:
        """kept: share of the last scale's tokens that a step computes, if the recipe drops some.

        empty: allocate no memory for the weights; enough for `activation_bytes`.
        """
        self.kept = kept
        sizes = recipe.transformer
        # any tokenizer with the same tokens
        tokenizer = TokenizerConfig(
            sizes.scales, latent_channels=sizes.latent_channels, codebook_size=sizes.codebook_size
        )
        config = HartConfig(tokenizer=tokenizer, transformer=sizes, diffusion=recipe.diffusion)
        with torch.device("meta" if empty else device):
            module = with_adapters(Hart(config), recipe)
        quantizer = MultiScaleQuantizer(sizes.codebook_size, sizes.latent_channels, shared_phi=1, phi_weight=0.5)
        super().__init__(recipe, module, quantizer.to(device).requires_grad_(False), device)

    def batch(self, microbatch: Microbatch) -> TransformerBatch:
        sizes, generator, rows = self.recipe.transformer, microbatch.generator("rehearsal"), microbatch.batch_size
        counts, channels = sizes.schedule.token_counts, sizes.latent_channels

        def noise(*shape: int) -> Tensor:
            return microbatch.mine(torch.randn(rows, *shape, generator=generator)).to(self.device)

        def numbers(end: int, *shape: int) -> Tensor:
            return microbatch.mine(torch.randint(end, (rows, *shape), generator=generator)).to(self.device)

        maps = TokenMaps(
            tuple(numbers(sizes.codebook_size, count) for count in counts),
            noise(sum(counts[1:]), channels),
            noise(counts[-1], channels),
            sizes.schedule,
        )
        context: Context
        if sizes.text is not None:
            features = noise(sizes.text.tokens, sizes.text.width)
            context = TextContext(features, torch.ones(features.shape[:2], dtype=torch.bool, device=self.device))
        else:
            assert sizes.classes is not None
            context = ClassContext(numbers(sizes.classes.num_classes), sizes.classes.num_classes)
        positions = None
        if self.recipe.drop_last_scale:
            positions = random_positions(rows, counts[-1], kept_tokens(self.kept, counts[-1]), generator)
        # given codes cannot be counted without values
        return self.made(microbatch, context, maps, positions, share=0.5)

    def save(self, folder: Path, module: nn.Module) -> None: ...


def _sizes_of(recipe: StagedRecipe) -> TokenizerConfig | TransformerConfig:
    return recipe.transformer if isinstance(recipe, TransformerRecipe) else recipe.tokenizer


def tokens_of(recipe: StagedRecipe) -> int:
    """Return the number of tokens of an image."""
    return _sizes_of(recipe).schedule.total_tokens


def at_a_size_to_try(recipe: StagedRecipe) -> StagedRecipe:
    """Return the recipe, or for large images only its first scales: about `MEASURED_TOKENS`."""
    if tokens_of(recipe) <= LARGEST_IMAGE:
        return recipe
    sizes = _sizes_of(recipe)
    tokens = itertools.accumulate(sizes.schedule.token_counts)
    scales = sizes.scales[: max(2, sum(count <= MEASURED_TOKENS for count in tokens))]
    return recipe.replace(**{recipe.stage: sizes.replace(scales=scales)})


def activations_of(recipe: StagedRecipe, rows: int) -> int:
    """Return `activation_bytes` for `rows` images of a recipe, in seconds: extrapolated from a few images, and for
    large images from smaller ones."""
    tried = at_a_size_to_try(recipe)
    one = max(1, min(rows, MEASURED_TOKENS // tokens_of(tried)))
    few, many = (activation_bytes(at_its_largest(tried), recipe.trainer, count) for count in (one, 2 * one))
    # the part that does not depend on the images does not grow: copies of weights, chunks of logits
    grows = rows * tokens_of(recipe) / (one * tokens_of(tried))
    return round(2 * few - many + grows * (many - few))


def rehearsed(recipe: StagedRecipe, device: torch.device) -> Task:
    """Return the recipe's stage with steps of average size, to measure time."""
    if isinstance(recipe, TransformerRecipe):
        return RehearsedTransformer(recipe, device)
    return RehearsedTokenizer(recipe, device)


def at_its_largest(recipe: StagedRecipe) -> Task:
    """Return the recipe's stage with the largest step, for `activation_bytes`: it keeps the most of the last scale."""
    if isinstance(recipe, TransformerRecipe):
        return RehearsedTransformer(recipe, CPU, kept=LARGEST_KEPT_SHARE, empty=True)
    return RehearsedTokenizer(recipe, CPU)


def measure(
    task: Task,
    config: TrainerConfig,
    distributed: DistributedContext,
    tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds that a process takes per image of `tokens` tokens, after a warm-up step (omitted if it is slow
    without the compiler)."""
    rows = max(1, min(config.batch_size // distributed.count, MEASURED_TOKENS // tokens))
    stepper = Stepper(task, config.replace(batch_size=rows * distributed.count, accumulate=1), distributed)
    seconds = 0.0
    for step in range(2):
        start = clock()
        stepper.step(step)
        seconds = clock() - start
        if seconds > LONG and not config.compile:
            break
    return seconds / rows


def activation_bytes(task: Task, config: TrainerConfig, rows: int) -> int:
    """Return the peak bytes of the forward and backward pass of `rows` images, besides weights and their gradients.

    This includes saved activations, intermediate results and bfloat16 copies of weights, but no temporaries of the
    optimiser. The kernels are the CPU's, whatever the device of the run.
    task: on the CPU or without memory; its weights lose their content.
    """
    trained: dict[str, list[nn.Parameter]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        for name, optimized in task.optimized.items():
            trained[name] = _hollow(optimized.module)
            if config.activation_checkpointing:
                for block in optimized.blocks:
                    recompute(block)
        before = live.now
        with torch.no_grad():
            batch = task.batch(Microbatch(config.seed, 0, rows, slice(0, rows)))
        live.peak = live.now
        for name, optimized in task.optimized.items():
            for other, parameters in trained.items():
                for parameter in parameters:
                    parameter.requires_grad_(other == name)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
                if optimized.before_losses is not None:
                    optimized.before_losses([batch], TrainContext())
                loss, _ = task.loss(name, batch)
            loss.backward()
            del loss
    return live.peak - before


def _hollow(module: nn.Module) -> list[nn.Parameter]:
    """Replace all parameters by new ones on the CPU, of the current mode; return the trained ones, with gradients."""
    trained = []
    for owner in module.modules():
        for name, old in list(owner.named_parameters(recurse=False)):
            new = nn.Parameter(torch.empty_like(old, device="cpu"), requires_grad=old.requires_grad)
            if old.requires_grad:
                new.grad = torch.empty_like(new)
                trained.append(new)
            setattr(owner, name, new)
    return trained


class LiveBytes(TorchDispatchMode):
    """Counts the memory of all tensors that operations create, for as long as they live.

    now: bytes at present. peak: the most at any time; may be set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:  # neither a view nor changed in place
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)
