"""Next-scale prediction (paper, section 3.2): the loop between transformer and quantiser, coarse to fine.

    logits -> codes -> embeddings -> running sum -> next scale's input, K times;
    at the last scale also the residual tokens.

Generation is an iterator of states, one a scale: previews, callbacks and a stop need nothing else.
Text encoding and decoding to pixels are elsewhere: a context goes in, latents come out.

Shapes: B images, K scales, N tokens of a step, V codes, D latent channels, n_K grid size of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.config import SamplingConfig
from hart.errors import HartError
from hart.generation.logits import filtered, guided, gumbel_mixture, top_k_at
from hart.generation.noise import NoiseSource
from hart.layers.kv_cache import KVCache
from hart.model import Hart
from hart.tokenizer.quantizer import MultiScaleQuantizer, next_scale_input, to_map
from hart.transformer.transformer import Conditioning, gather_tokens
from hart.types import Context, cat_contexts


@dataclass(frozen=True)
class TokenStep:
    """What one step sampled: all tokens of a scale, or those of one MaskGIT step at the last scale.

    positions: (B, N) raster positions of the tokens; None: all of them in raster order.
    logits: (B, N, V) float32, guided, before any filter. codes: (B, N), sampled from them.
    residual: (B, N, D), the continuous tokens that a hybrid model adds at the last scale.
    """

    positions: Tensor | None
    logits: Tensor
    codes: Tensor
    residual: Tensor | None


@dataclass(frozen=True)
class ScaleState:
    """A batch after scale k (0-based) of `scales`.

    latent: (B, D, n_K, n_K) float32, the running sum so far: decode it for a preview; after the last scale, the result.
    steps: one, or the MaskGIT steps of the last scale.
    """

    k: int
    scales: int
    latent: Tensor
    steps: tuple[TokenStep, ...]


@dataclass(frozen=True)
class _Prefix:
    """What the transformer knows of a batch: both halves of the guidance, and the tokens seen so far.

    null_rows: rows at the end whose context is the null one; 0 where a negative prompt stands there.
    """

    conditioning: Conditioning
    cache: KVCache
    null_rows: int


def maskgit_step_sizes(tokens: int, maskgit_steps: int) -> list[int]:
    """How many tokens each MaskGIT step of the last scale samples: a cosine schedule, at least one a step.

    After step r of R, floor(n cos(pi/2 r/R)) positions stay for later ones.
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
        self, hart: Hart, quantizer: MultiScaleQuantizer, settings: SamplingConfig, noise: NoiseSource
    ) -> None:
        self.hart = hart
        self.transformer = hart.transformer
        self.schedule = hart.transformer.schedule
        self.quantizer = quantizer
        self.settings = settings
        self.noise = noise
        self.hybrid = hart.residual is not None
        self.guided = settings.guidance_scale > 0
        if settings.maskgit_steps > 1 and not self.hybrid:
            raise ValueError(
                "MaskGIT steps at the last scale are for hybrid models; this one samples discrete tokens only"
            )
        if settings.maskgit_steps > self.schedule.token_counts[-1]:
            raise ValueError(f"{settings.maskgit_steps} MaskGIT steps are more than the last scale's tokens")

    def __call__(self, context: Context, null_context: Context | None = None) -> Tensor:
        """Latents (B, D, n_K, n_K) in float32: those of the last of `states`."""
        for state in self.states(context, null_context):
            latent = state.latent
        return latent

    @torch.inference_mode()
    def states(self, context: Context, null_context: Context | None = None) -> Iterator[ScaleState]:
        """The states of a batch, one after every scale; who stops asking stops the generation.

        context: of B images. null_context: what guidance leads away from, by default the null context of each.
        """
        batch, null_rows = len(context), 0
        if self.guided:
            null_rows = batch if null_context is None else 0
            context = cat_contexts([context, context.null() if null_context is None else null_context])
        conditioning = self.transformer.condition(context)
        prefix = _Prefix(conditioning, self.transformer.new_cache(len(context)), null_rows)
        grid_size, last = self.schedule.final_grid_size, len(self.schedule) - 1
        total = self._codes.new_zeros((batch, self._codes.shape[1], grid_size, grid_size), dtype=torch.float32)
        for k in range(last + 1):
            if k == last and self.hybrid:
                tokens, steps = self._last_scale(total, prefix)
                total = total + to_map(tokens)  # without phi
            else:
                tokens, step = self._step(k, total, prefix)
                steps = [step]
                total = total + self.quantizer.contribution(tokens.to(self._codes.dtype), k, self.schedule).float()
            yield ScaleState(k, last + 1, total, tuple(steps))

    @property
    def _codes(self) -> Tensor:
        return self.quantizer.codebook.weight

    def _last_scale(self, total: Tensor, prefix: _Prefix) -> tuple[Tensor, list[TokenStep]]:
        """Tokens (B, N_K, D) of a hybrid model's last scale, in one MaskGIT step or more."""
        k = len(self.schedule) - 1
        count = remaining = self.schedule.token_counts[k]
        sizes = maskgit_step_sizes(count, self.settings.maskgit_steps)
        if len(sizes) == 1:
            tokens, step = self._step(k, total, prefix)
            return tokens, [step]
        tokens = total.new_zeros(len(total), count, self._codes.shape[1])
        order, steps = self.noise.order(count), []
        for size in sizes:
            # positions at the front of the order wait for later steps; a step goes in raster order
            positions = order[:, remaining - size : remaining].sort(dim=1).values
            sampled, step = self._step(k, total, prefix, positions)
            tokens.scatter_(1, positions.unsqueeze(2).expand_as(sampled), sampled)
            steps.append(step)
            remaining -= size
        return tokens, steps

    def _step(
        self, k: int, total: Tensor, prefix: _Prefix, positions: Tensor | None = None
    ) -> tuple[Tensor, TokenStep]:
        """Embeddings (B, N, D) float32 of the tokens of scale k, residual added, and how they came about."""
        settings, last = self.settings, len(self.schedule) - 1
        final = k == last and self.hybrid
        ratio = (k - 1 if final else k) / last  # the last scale takes that of the one before, as published
        guidance = settings.guidance_scale * ratio
        hidden = self._hidden(k, total, prefix, positions)
        logits = self.transformer.logits(hidden, prefix.conditioning)
        if self.guided:
            conditional, unconditional = logits.chunk(2)
            logits = guided(conditional, unconditional, guidance)
        if not logits.isfinite().all():
            raise HartError("the transformer's numbers left the range of its type: draw in float32 or bfloat16")
        # plain VAR keeps as many at every scale
        kept = filtered(logits, top_k_at(k, settings.top_k) if self.hybrid else settings.top_k, settings.top_p)
        codes = self.noise.codes(kept)
        if settings.gumbel_smoothing:
            embeddings = gumbel_mixture(kept, self.noise.gumbel(kept), ratio, self._codes)
        else:
            embeddings = self.quantizer.codebook(codes).float()
        if not final or settings.discrete_only:
            return embeddings, TokenStep(positions, logits, codes, None)
        residual = self._residual(hidden, codes, guidance)
        return embeddings + residual, TokenStep(positions, logits, codes, residual)

    def _hidden(self, k: int, total: Tensor, prefix: _Prefix, positions: Tensor | None) -> Tensor:
        """Hidden states of scale k for both halves of the guidance, (B or 2B, N, C)."""
        if k == 0:
            return self.transformer.first_scale(prefix.conditioning, prefix.cache, prefix.null_rows)
        scale_input = next_scale_input(total, self.schedule.grid_sizes[k])
        if positions is not None:
            scale_input, positions = gather_tokens(scale_input, positions), self._both(positions)
        return self.transformer.next_scale(k, self._both(scale_input), prefix.conditioning, prefix.cache, positions)

    def _residual(self, hidden: Tensor, codes: Tensor, guidance: float) -> Tensor:
        """Residual tokens (B, N, D) for the hidden states of both halves and the sampled codes (B, N)."""
        head = self.hart.residual
        assert head is not None
        condition = self.hart.residual_condition(hidden, self._both(self.quantizer.codebook(codes)))
        (batch, tokens), channels = codes.shape, self._codes.shape[1]
        flat = condition.flatten(0, 1).split(batch * tokens)
        residual = head.sample(
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
