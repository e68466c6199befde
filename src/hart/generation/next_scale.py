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
from hart.generation.logits import Guidance, filtered, guided, gumbel_mixture, sample_by_gumbel
from hart.generation.noise import NoiseSource
from hart.generation.rows import batch_settings, ratio_at
from hart.grids import ScaleSchedule
from hart.layers.kv_cache import KVCache
from hart.model import Hart
from hart.tokenizer.quantizer import MultiScaleQuantizer, next_scale_input, to_map
from hart.transformer.transformer import Conditioning, gather_tokens
from hart.types import Context


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
    """What the transformer has seen of a batch: the conditions, and a cache.

    null_rows: rows at the end with the null context; 0 if a negative prompt stands there. guided: whether both halves
    of the guidance are in it. whole: the cache that `cache` is a part of, whose memory may be lent while it is held.
    """

    conditioning: Conditioning
    cache: KVCache
    null_rows: int
    guided: bool
    whole: KVCache | None = None

    def conditional(self, images: int) -> _Prefix:
        """The half with the conditions of the images."""
        rows = slice(0, images)
        return _Prefix(self.conditioning.rows_of(rows), self.cache.rows(rows), 0, guided=False, whole=self.cache)

    def both(self, x: Tensor) -> Tensor:
        """The same tensor for the conditional and the unconditional half."""
        return x.repeat(2, *(1,) * (x.dim() - 1)) if self.guided else x


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
    """Samples the latents of one batch of images. Without guidance the conditional half runs alone.

    From the context to the latent nothing leaves the device, and the host waits for nothing.
    """

    def __init__(
        self,
        hart: Hart,
        quantizer: MultiScaleQuantizer,
        settings: SamplingConfig | Sequence[SamplingConfig],
        noise: NoiseSource,
        schedule: ScaleSchedule | None = None,
    ) -> None:
        """settings: one for all images, or one for each. schedule: of all images, by default the model's own.

        Raises `HartError` for what the model cannot sample.
        """
        self.hart = hart
        self.transformer = hart.transformer
        self.schedule = schedule or hart.config.transformer.schedule
        self.quantizer = quantizer
        self.codebook = quantizer.codebook.weight
        rows = [settings] if isinstance(settings, SamplingConfig) else settings
        self.settings = batch_settings(hart.config, rows, self.schedule, self.codebook.device)
        self.noise = noise

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
        prefix = self._prefix(context, null_context)
        shape = (len(context), self.codebook.shape[1], *self.schedule.final)
        total = self.codebook.new_zeros(shape, dtype=torch.float32)
        for k in range(len(self.schedule)):
            if k > 0 and k == max(1, len(self.schedule) - self.settings.unguided_scales) and prefix.guided:
                prefix = prefix.conditional(len(context))
            steps = [self._step(k, total, prefix, positions) for positions in self._positions(k)]
            total = total + self._contribution(k, _in_raster_order(steps))
            yield ScaleState(k, len(self.schedule), total, tuple(steps))

    def _prefix(self, context: Context, null_context: Context | None) -> _Prefix:
        """The conditions of both halves, and an empty cache."""
        images, null_rows = len(context), 0
        parts = self._apart(context)
        if self.settings.guided and null_context is None:
            null_rows = images
            parts += self._apart(context.null().rows(slice(0, 1))) * images  # all are the same
        elif self.settings.guided and null_context is not None:
            parts += self._apart(null_context)
        cache = self.transformer.new_cache(images * (2 if self.settings.guided else 1), self.schedule)
        return _Prefix(Conditioning.cat(parts), cache, null_rows, self.settings.guided)

    def _apart(self, context: Context) -> list[Conditioning]:
        """The conditions of a batch; one by one on a CPU, whose products of few rows round by their number."""
        rows = 1 if self.codebook.device.type == "cpu" else len(context)
        return [self.transformer.condition(context.rows(slice(i, i + rows))) for i in range(0, len(context), rows)]

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
        # one by one on a CPU, whose convolutions round otherwise for more images
        images = tokens.to(self.codebook.dtype).split(1 if tokens.device.type == "cpu" else len(tokens))
        return torch.cat([self.quantizer.contribution(image, k, self.schedule) for image in images]).float()

    def _step(self, k: int, total: Tensor, prefix: _Prefix, positions: Tensor | None) -> TokenStep:
        """Sample tokens of scale k, given the sum (B, D, h, w) of all scales before it."""
        settings, has_residual = self.settings, self._has_residual(k)
        guidance = settings.guidance_at(k)
        hidden = self._hidden(k, total, prefix, positions)
        logits = self.transformer.logits(hidden, prefix.conditioning)
        if prefix.guided:
            conditional, unconditional = logits.chunk(2)
            logits = guided(conditional, unconditional, guidance)
        places = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0) if positions is None else positions
        candidates = filtered(logits, settings.candidates[k], settings.top_p, settings.row_top_k_at(k))
        to_sample, to_mix = self.noise.gumbel(k, places, candidates)
        codes = sample_by_gumbel(candidates, to_sample)
        if settings.smooth is not None:
            ratio = ratio_at(k, self.schedule, self.hart.config)
            tokens = gumbel_mixture(candidates, to_mix, ratio, self.codebook)
        if not settings.all_smooth:
            plain = self.quantizer.codebook(codes).float()
            tokens = plain if settings.smooth is None else torch.where(settings.smooth, tokens, plain)
        residual = None
        if has_residual and not settings.discrete_only:
            residual = self._residual(hidden, codes, guidance, places, prefix)
            tokens = tokens + residual
        # numbers that left their range make the image NaN, which is looked for once, when its pixels leave the device
        sound = candidates.logits.amax(dim=(1, 2), keepdim=True).isfinite()
        return TokenStep(positions, logits, codes, tokens.where(sound, torch.nan), residual)

    def _hidden(self, k: int, total: Tensor, prefix: _Prefix, positions: Tensor | None) -> Tensor:
        """Hidden states of scale k for both halves of the guidance, (B or 2B, N, C)."""
        if k == 0:
            return self.transformer.first_scale(prefix.conditioning, prefix.cache, prefix.null_rows)
        scale_input = next_scale_input(total, self.schedule.grids[k])
        if positions is not None:
            scale_input, positions = gather_tokens(scale_input, positions), prefix.both(positions)
        return self.transformer.next_scale(
            k, prefix.both(scale_input), prefix.conditioning, prefix.cache, positions, self.schedule
        )

    def _residual(self, hidden: Tensor, codes: Tensor, guidance: Guidance, places: Tensor, prefix: _Prefix) -> Tensor:
        """Residual tokens (B, N, D) for the hidden states of both halves and the sampled codes (B, N)."""
        condition = self.hart.residual_condition(hidden, prefix.both(self.quantizer.codebook(codes)))
        conditional, null = condition.chunk(2) if prefix.guided else (condition, None)
        noise = self.noise.residual(places, self.codebook.shape[1], self.settings.diffusion_steps)
        return self.hart.residual_head().sample(conditional, null, guidance, noise)


def _in_raster_order(steps: Sequence[TokenStep]) -> Tensor:
    """The tokens (B, N_k, D) of all steps of a scale."""
    tokens = torch.cat([step.tokens for step in steps], dim=1)
    positions = [step.positions for step in steps if step.positions is not None]
    return gather_tokens(tokens, torch.cat(positions, dim=1).argsort(dim=1)) if positions else tokens
