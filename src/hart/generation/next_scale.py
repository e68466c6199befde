"""Next-scale prediction (paper, section 3.2): the loop between transformer and quantiser, coarse to fine.

    logits -> codes -> embeddings -> running sum -> next scale's input, K times;
    at the last scale also the residual tokens.

Generation is an iterator with one state per scale: previews, callbacks and stopping need nothing else. A context goes
in, latents come out; text encoding and decoding to pixels are elsewhere.

Shapes: B images, K scales, N tokens of a step, V codes, D latent channels, h w latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.config import SamplingConfig
from hart.errors import HartError
from hart.generation.logits import filtered, guided, gumbel_mixture, top_k_at
from hart.generation.noise import NoiseSource
from hart.grids import ScaleSchedule
from hart.layers.kv_cache import KVCache
from hart.model import Hart
from hart.tokenizer.quantizer import MultiScaleQuantizer, next_scale_input, to_map
from hart.transformer.transformer import Conditioning, gather_tokens
from hart.types import Context, cat_contexts


@dataclass(frozen=True)
class TokenStep:
    """One prediction: all tokens of a scale, or those of one MaskGIT step at the last scale.

    positions: (B, N) raster positions of the tokens; None: all of them in raster order.
    logits: (B, N, V) float32, guided, before any filter. codes: (B, N), sampled from them.
    tokens: (B, N, D) float32, what the step adds to the sum: embeddings of codes plus the residual.
    residual: (B, N, D), the continuous tokens of a hybrid model's last scale.
    """

    positions: Tensor | None
    logits: Tensor
    codes: Tensor
    tokens: Tensor
    residual: Tensor | None


@dataclass(frozen=True)
class ScaleState:
    """A batch after scale k (0-based) of `scales`.

    latent: (B, D, h, w) float32, the running sum: a preview once decoded and, after the last scale, the result.
    steps: one, or the MaskGIT steps of the last scale.
    """

    k: int
    scales: int
    latent: Tensor
    steps: tuple[TokenStep, ...]


@dataclass(frozen=True)
class _Prefix:
    """What the transformer has seen of a batch, with both halves of the guidance: the conditions, and a cache.

    null_rows: rows at the end with the null context; 0 if a negative prompt stands there.
    """

    conditioning: Conditioning
    cache: KVCache
    null_rows: int


def maskgit_step_sizes(tokens: int, maskgit_steps: int) -> list[int]:
    """How many tokens each MaskGIT step of the last scale samples: a cosine schedule, at least one per step.

    After step r of R, floor(n cos(pi/2 r/R)) positions are left.
    """
    remaining, sizes = tokens, []
    for r in range(1, maskgit_steps + 1):
        left = math.floor(tokens * math.cos(math.pi / 2 * r / maskgit_steps))
        left = 0 if r == maskgit_steps else max(1, min(left, remaining - 1))
        sizes.append(remaining - left)
        remaining = left
    return sizes


class NextScaleGenerator:
    """Samples the latents of one batch of images. `guidance_scale` 0 runs the conditional half alone."""

    def __init__(
        self,
        hart: Hart,
        quantizer: MultiScaleQuantizer,
        settings: SamplingConfig,
        noise: NoiseSource,
        schedule: ScaleSchedule | None = None,
    ) -> None:
        """schedule: by default the model's own. Raises `ConfigError` for what the model cannot sample."""
        hart.config.check_sampling(settings, schedule)
        self.hart = hart
        self.transformer = hart.transformer
        self.schedule = schedule or hart.config.transformer.schedule
        self.quantizer = quantizer
        self.codebook = quantizer.codebook.weight
        self.settings = settings
        self.noise = noise
        self.guided = settings.guidance_scale > 0

    def __call__(self, context: Context, null_context: Context | None = None) -> Tensor:
        """Latents (B, D, h, w) in float32: that of the last of `states`."""
        for state in self.states(context, null_context):
            latent = state.latent
        return latent

    @torch.inference_mode()
    def states(self, context: Context, null_context: Context | None = None) -> Iterator[ScaleState]:
        """The state of a batch after every scale; whoever stops asking stops the generation.

        context: of B images. null_context: what guidance steers away from, by default the null context of each.
        """
        batch, null_rows = len(context), 0
        if self.guided:
            null_rows = batch if null_context is None else 0
            context = cat_contexts([context, context.null() if null_context is None else null_context])
        conditioning = self.transformer.condition(context)
        prefix = _Prefix(conditioning, self.transformer.new_cache(len(context), self.schedule), null_rows)
        shape = (batch, self.codebook.shape[1], *self.schedule.final)
        total = self.codebook.new_zeros(shape, dtype=torch.float32)
        for k in range(len(self.schedule)):
            steps = [self._step(k, total, prefix, positions) for positions in self._positions(k)]
            total = total + self._contribution(k, _in_raster_order(steps))
            yield ScaleState(k, len(self.schedule), total, tuple(steps))

    def _has_residual(self, k: int) -> bool:
        """Whether scale k is the one that a hybrid model completes by its residual."""
        return k == len(self.schedule) - 1 and self.hart.residual is not None

    def _positions(self, k: int) -> Iterator[Tensor | None]:
        """Which tokens each step of scale k samples, (B, N) in raster order; None: all at once."""
        count = left = self.schedule.token_counts[k]
        sizes = maskgit_step_sizes(count, self.settings.maskgit_steps) if self._has_residual(k) else [count]
        if len(sizes) == 1:
            yield None
            return
        order = self.noise.order(count)
        for size in sizes:  # from the end of the order to its front
            yield order[:, left - size : left].sort(dim=1).values
            left -= size

    def _contribution(self, k: int, tokens: Tensor) -> Tensor:
        """What the tokens (B, N_k, D) of scale k add to the running sum: (B, D, h, w)."""
        if self._has_residual(k):
            return to_map(tokens, self.schedule.final)  # without phi
        return self.quantizer.contribution(tokens.to(self.codebook.dtype), k, self.schedule).float()

    def _step(self, k: int, total: Tensor, prefix: _Prefix, positions: Tensor | None) -> TokenStep:
        """Sample tokens of scale k, given the sum (B, D, h, w) of all scales before it."""
        settings, last = self.settings, len(self.schedule) - 1
        has_residual = self._has_residual(k)
        ratio = (k - 1 if has_residual else k) / last  # with a residual, that of the scale before, as published
        guidance = settings.guidance_scale * ratio
        hidden = self._hidden(k, total, prefix, positions)
        logits = self.transformer.logits(hidden, prefix.conditioning)
        if self.guided:
            conditional, unconditional = logits.chunk(2)
            logits = guided(conditional, unconditional, guidance)
        if not logits.isfinite().all():
            raise HartError("the transformer's numbers overflow its type: use float32 or bfloat16")
        # plain VAR keeps as many codes at every scale
        top_k = settings.top_k if self.hart.residual is None else top_k_at(k, settings.top_k)
        kept = filtered(logits, top_k, settings.top_p)
        codes = self.noise.codes(kept)
        if settings.gumbel_smoothing:
            tokens = gumbel_mixture(kept, self.noise.gumbel(kept), ratio, self.codebook)
        else:
            tokens = self.quantizer.codebook(codes).float()
        residual = None
        if has_residual and not settings.discrete_only:
            residual = self._residual(hidden, codes, guidance)
            tokens = tokens + residual
        return TokenStep(positions, logits, codes, tokens, residual)

    def _hidden(self, k: int, total: Tensor, prefix: _Prefix, positions: Tensor | None) -> Tensor:
        """Hidden states of scale k for both halves of the guidance, (B or 2B, N, C)."""
        if k == 0:
            return self.transformer.first_scale(prefix.conditioning, prefix.cache, prefix.null_rows)
        scale_input = next_scale_input(total, self.schedule.grids[k])
        if positions is not None:
            scale_input, positions = gather_tokens(scale_input, positions), self._both(positions)
        return self.transformer.next_scale(
            k, self._both(scale_input), prefix.conditioning, prefix.cache, positions, self.schedule
        )

    def _residual(self, hidden: Tensor, codes: Tensor, guidance: float) -> Tensor:
        """Residual tokens (B, N, D) for the hidden states of both halves and the sampled codes (B, N)."""
        condition = self.hart.residual_condition(hidden, self._both(self.quantizer.codebook(codes)))
        (batch, tokens), channels = codes.shape, self.codebook.shape[1]
        flat = condition.flatten(0, 1).split(batch * tokens)
        residual = self.hart.residual_head().sample(
            flat[0],
            flat[1] if self.guided else None,
            guidance,
            self.noise.start_noise(tokens, channels).flatten(0, 1),
            lambda: self.noise.step_noise(tokens, channels).flatten(0, 1),
            self.settings.diffusion_steps,
        )
        return residual.view(batch, tokens, channels)

    def _both(self, x: Tensor) -> Tensor:
        """The same tensor for the conditional and the unconditional half."""
        return x.repeat(2, *(1,) * (x.dim() - 1)) if self.guided else x


def _in_raster_order(steps: Sequence[TokenStep]) -> Tensor:
    """The tokens (B, N_k, D) of all steps of a scale."""
    tokens = torch.cat([step.tokens for step in steps], dim=1)
    positions = [step.positions for step in steps if step.positions is not None]
    return gather_tokens(tokens, torch.cat(positions, dim=1).argsort(dim=1)) if positions else tokens
