"""Next-scale prediction (paper, section 3.2): the loop between transformer and quantiser, coarse to fine.

    logits -> codes -> embeddings -> running sum -> next scale's input, K times;
    at the last scale also the residual tokens.

Text encoding and decoding to pixels are elsewhere: a context goes in, a latent comes out.

Shapes: B pictures, K scales, N tokens of a scale, V codes, D latent channels, n_K side of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hart.config import SamplingConfig
from hart.errors import HartError
from hart.generation.draws import Draws
from hart.generation.logits import filtered, guided, smooth_mixture, top_k_at
from hart.layers.kv_cache import KVCache
from hart.model import Hart
from hart.tokenizer.quantizer import MultiScaleQuantizer, next_scale_input, to_map
from hart.transformer.transformer import Conditioning, gather_tokens
from hart.types import Context


@dataclass(frozen=True)
class ScaleStep:
    """What a callback sees after a step.

    k: 0-based scale; scales: K.
    latent: (B, D, n_K, n_K), the running sum so far: decode it for a preview.
    """

    k: int
    scales: int
    latent: Tensor


@dataclass
class Trace:
    """Guided logits (before any filter) and codes of every step; the last scale has one step a round."""

    logits: list[Tensor] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)


def round_sizes(tokens: int, rounds: int) -> list[int]:
    """How many tokens each round of the last scale draws: a cosine schedule, at least one a round.

    After round r of R, floor(n cos(pi/2 r/R)) positions stay for later ones.
    """
    remaining, sizes = tokens, []
    for r in range(1, rounds + 1):
        left = math.floor(tokens * math.cos(math.pi / 2 * r / rounds))
        left = 0 if r == rounds else max(1, min(left, remaining - 1))
        sizes.append(remaining - left)
        remaining = left
    return sizes


class NextScaleGenerator:
    """Draws the latents of one batch of pictures.

    `guidance_scale` 0 runs the conditional half alone.
    """

    def __init__(
        self,
        hart: Hart,
        quantizer: MultiScaleQuantizer,
        settings: SamplingConfig,
        draws: Draws,
        *,
        on_scale: Callable[[ScaleStep], None] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.hart = hart
        self.transformer = hart.transformer
        self.schedule = hart.transformer.schedule
        self.quantizer = quantizer
        self.settings = settings
        self.draws = draws
        self.hybrid = hart.residual is not None
        self.draw_residual = self.hybrid and not settings.discrete_only
        self.on_scale = on_scale
        self.trace = trace
        if settings.rounds > 1 and not self.hybrid:
            raise ValueError("rounds at the last scale are for hybrid models; this one draws discrete tokens only")
        if settings.rounds > self.schedule.token_counts[-1]:
            raise ValueError(f"{settings.rounds} rounds are more than the last scale's tokens")

    @torch.inference_mode()
    def __call__(self, context: Context) -> Tensor:
        """Latent (B, D, n_K, n_K) in float32 for a context of B pictures."""
        batch, last = len(context), len(self.schedule) - 1
        if self.settings.guidance_scale > 0:
            context = context.with_null()
        conditioning = self.transformer.condition(context)
        cache = self.transformer.new_cache(len(context), dtype=self.hart.dtype, device=self.hart.device)
        side = self.schedule.final_side
        channels = self.quantizer.codebook.embedding_dim
        total = torch.zeros(batch, channels, side, side, device=self.hart.device)
        for k in range(len(self.schedule)):
            if k == last and self.hybrid:
                total = total + to_map(self._last_scale(total, conditioning, cache))
            else:
                ratio = k / last
                hidden = self._hidden(k, total, conditioning, cache)
                _, embeddings = self._tokens(k, hidden, conditioning, ratio)
                contribution = self.quantizer.contribution(embeddings.to(self._codes.dtype), k, self.schedule)
                total = total + contribution.float()
            if self.on_scale is not None:
                self.on_scale(ScaleStep(k, len(self.schedule), total))
        return total

    @property
    def _codes(self) -> Tensor:
        return self.quantizer.codebook.weight

    def _hidden(
        self, k: int, total: Tensor, conditioning: Conditioning, cache: KVCache, cells: Tensor | None = None
    ) -> Tensor:
        """Hidden states of scale k for both halves of the guidance, (B or 2B, N, C)."""
        if k == 0:
            null_rows = len(total) if self.settings.guidance_scale > 0 else 0
            return self.transformer.first_scale(conditioning, cache, null_rows)
        scale_input = next_scale_input(total, self.schedule.sides[k])
        if cells is not None:
            scale_input = gather_tokens(scale_input, cells)
        return self.transformer.next_scale(
            k, self._both(scale_input), conditioning, cache, None if cells is None else self._both(cells)
        )

    def _both(self, x: Tensor) -> Tensor:
        """The same tensor for the conditional and the unconditional half."""
        return x.repeat(2, *(1,) * (x.dim() - 1)) if self.settings.guidance_scale > 0 else x

    def _tokens(self, k: int, hidden: Tensor, conditioning: Conditioning, ratio: float) -> tuple[Tensor, Tensor]:
        """Codes (B, N) of a step and the embeddings (B, N, D) float32 that enter the running sum."""
        logits = self.transformer.logits(hidden, conditioning)
        if self.settings.guidance_scale > 0:
            conditional, unconditional = logits.chunk(2)
            logits = guided(conditional, unconditional, self.settings.guidance_scale * ratio)
        if not logits.isfinite().all():
            raise HartError("the transformer's numbers left the range of its type: draw in float32 or bfloat16")
        if self.trace is not None:
            self.trace.logits.append(logits)
        top_k = self.settings.top_k
        # plain VAR keeps as many at every scale
        kept = filtered(logits, top_k_at(k, top_k) if self.hybrid else top_k, self.settings.top_p)
        codes = self.draws.codes(kept)
        if self.trace is not None:
            self.trace.indices.append(codes)
        if self.settings.smooth:
            return codes, smooth_mixture(kept, self.draws.gumbel(kept), ratio, self._codes)
        return codes, self.quantizer.codebook(codes).float()

    def _last_scale(self, total: Tensor, conditioning: Conditioning, cache: KVCache) -> Tensor:
        """Tokens (B, N_K, D) of the last scale: codes plus residual, without phi, in one round or more."""
        k = len(self.schedule) - 1
        ratio = (k - 1) / k  # of the scale before, as published
        count = self.schedule.token_counts[k]
        sizes = round_sizes(count, self.settings.rounds)
        if len(sizes) == 1:
            return self._round(k, None, total, conditioning, cache, ratio)
        tokens = torch.zeros(total.shape[0], count, self._codes.shape[1], device=total.device)
        order = self.draws.order(count)
        remaining = count
        for size in sizes:
            # positions at the front of the order wait for later rounds; a round goes in raster order
            cells = order[:, remaining - size : remaining].sort(dim=1).values
            drawn = self._round(k, cells, total, conditioning, cache, ratio)
            tokens.scatter_(1, cells.unsqueeze(2).expand_as(drawn), drawn)
            remaining -= size
        return tokens

    def _round(
        self,
        k: int,
        cells: Tensor | None,
        total: Tensor,
        conditioning: Conditioning,
        cache: KVCache,
        ratio: float,
    ) -> Tensor:
        hidden = self._hidden(k, total, conditioning, cache, cells)
        codes, embeddings = self._tokens(k, hidden, conditioning, ratio)
        if not self.draw_residual:
            return embeddings
        return embeddings + self._residual(hidden, codes, self.settings.guidance_scale * ratio)

    def _residual(self, hidden: Tensor, codes: Tensor, guidance: float) -> Tensor:
        """Residual tokens (B, N, D) for the hidden states of both halves and the sampled codes (B, N)."""
        head = self.hart.residual
        assert head is not None
        condition = self.hart.residual_condition(hidden, self._both(self.quantizer.codebook(codes)))
        batch, tokens = codes.shape
        channels = self._codes.shape[1]
        flat = condition.flatten(0, 1).split(batch * tokens)
        residual = head.sample(
            flat[0],
            flat[1] if len(flat) > 1 else None,
            guidance,
            self.draws.start_noise(tokens, channels).flatten(0, 1),
            lambda: self.draws.step_noise(tokens, channels).flatten(0, 1),
            self.settings.diffusion_steps,
        )
        return residual.view(batch, tokens, channels)
