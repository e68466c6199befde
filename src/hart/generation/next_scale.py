"""Next-scale prediction (paper, section 3.2): the loop between transformer and quantiser, coarse to fine.

    logits -> codes -> embeddings -> running sum -> next scale's input, K times;
    at the last scale also the residual tokens.

Generation is an iterator with one state per scale; previews, callbacks and stopping all build on it. A context goes in
and latents come out; text encoding and decoding to pixels happen elsewhere.

Shapes: B images, K scales, N tokens of a step, V codes, D latent channels, h w latent.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hart.config import SamplingConfig
from hart.devices import row_index
from hart.errors import HartError
from hart.generation.batch_settings import batch_settings, first_unguided, ratio_at
from hart.generation.edits import BatchEdits, SecondPrompts, followed_codes
from hart.generation.guidance_and_sampling import (
    Candidates,
    Guidance,
    filtered,
    guided,
    gumbel_mixture,
    sample_by_gumbel,
)
from hart.generation.last_scale import last_call, maskgit_step_sizes
from hart.generation.noise import NoiseSource
from hart.generation.prefix import Prefix
from hart.grids import ScaleSchedule
from hart.layers.linear import without_autocast
from hart.model import Hart
from hart.tokenizer.quantizer import MultiScaleQuantizer, next_scale_input, to_map, with_given_codes
from hart.transformer.transformer import Conditioning, gather_tokens
from hart.types import Context

States = Generator["ScaleState", Sequence[int] | None, None]
"""`next` returns the state after the next scale; so does `send(rows)`, which continues with only these rows of the last
state (0-based, ascending) and drops the other images."""


@dataclass(frozen=True)
class TokenStep:
    """One prediction: all tokens of a scale, or those of one MaskGIT step at the last scale.

    positions: (B, N) raster positions of the tokens; None: all of them in raster order.
    logits: (B, N, V) float32, guided, before any filter. codes: (B, N), sampled from them.
    tokens: (B, N, D) float32, what the step adds to the sum: code embeddings plus the residual.
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

    latent: (B, D, h, w) float32, the running sum: a preview if decoded and, after the last scale, the result.
    steps: one, or the MaskGIT steps of the last scale.
    """

    k: int
    scales: int
    latent: Tensor
    steps: tuple[TokenStep, ...]


class NextScaleGenerator:
    """Samples the latents of one batch of images. Without guidance, only the conditional half runs.

    Between context and latent, nothing leaves the device and the host never waits.
    """

    def __init__(
        self,
        hart: Hart,
        quantizer: MultiScaleQuantizer,
        settings: SamplingConfig | Sequence[SamplingConfig],
        noise: NoiseSource,
        schedule: ScaleSchedule | None = None,
        edits: BatchEdits | None = None,
    ) -> None:
        """settings: one for all images, or one for each. schedule: for all images, by default the model's own.

        edits: what each image keeps of its source.
        Raises `HartError` for settings that the model cannot sample with.
        """
        self.hart = hart
        self.transformer = hart.transformer
        self.schedule = schedule or hart.config.transformer.schedule
        self.quantizer = quantizer
        self.codebook = quantizer.codebook.weight
        self._samplings = [settings] if isinstance(settings, SamplingConfig) else settings
        self.settings = batch_settings(hart.config, self._samplings, self.schedule, self.codebook.device)
        self.noise = noise
        self.edits = edits

    def __call__(self, context: Context, null_context: Context | None = None) -> Tensor:
        """Generate latents (B, D, h, w) float32: the latent of the last of `states`."""
        for state in self.states(context, null_context):
            latent = state.latent
        return latent

    def states(
        self, context: Context, null_context: Context | None = None, second: SecondPrompts | None = None
    ) -> States:
        """Yield the state of a batch after every scale; stop iterating to stop the generation.

        context: B images. null_context: what guidance steers away from, by default each image's null context.
        second: second prompts for some of the images.
        """
        rest, rows = self, None
        unguided = first_unguided(len(self.schedule), self.settings.shared.unguided_scales)
        shape = (len(context), self.codebook.shape[1], *self.schedule.final)
        for k in range(len(self.schedule)):
            # entered anew for each state: between two of them the caller has its own modes
            with torch.inference_mode(), without_autocast(self.codebook.device.type):
                if k == 0:
                    prefix = self._prefix(context, null_context, second)
                    total = self.codebook.new_zeros(shape, dtype=torch.float32)
                elif rows is not None and list(rows) != list(range(len(total))):
                    _check_rows(rows, len(total))
                    rest, prefix = rest._of(rows), prefix.of(rows, len(total))
                    total = total[row_index(rows, total.device)]
                if k == unguided and prefix.guided:
                    prefix = prefix.unguided(len(total))
                total, steps = rest._scale(k, total, prefix)
            rows = yield ScaleState(k, len(self.schedule), total, steps)

    def _of(self, rows: Sequence[int]) -> NextScaleGenerator:
        """Return the generator for some images of the batch."""
        part = copy.copy(self)
        if len(self._samplings) > 1:
            part._samplings = [self._samplings[row] for row in rows]
            part.settings = batch_settings(self.hart.config, part._samplings, self.schedule, self.codebook.device)
        part.noise = self.noise.of(rows)
        part.edits = None if self.edits is None else self.edits.of(rows)
        return part

    def _scale(self, k: int, total: Tensor, prefix: Prefix) -> tuple[Tensor, tuple[TokenStep, ...]]:
        """Return the sum (B, D, h, w) after scale k, given the sum before it, and the steps that led there."""
        known = None
        if self.edits is not None:
            known = self.edits.known_codes(k, total, self.schedule.grids[k], self.quantizer)
        steps: list[TokenStep] = []
        given = self._given_first(k, known, total)
        for positions in self._positions(k):
            steps.append(self._step(k, total, prefix, positions, known, given))
            if given is not None:
                codes = steps[-1].codes
                given = codes if positions is None else given.scatter(1, positions, codes)
        if given is not None and self.hart.residual is not None and not self.settings.shared.discrete_only:
            steps = self._completed(k, total, prefix, given, steps)
        tokens = _in_raster_order(steps)  # phi applies to codes only
        added = to_map(tokens, self.schedule.final) if self._has_residual(k) else self._smoothed(k, tokens)
        before, total = total, total + added
        if self.edits is not None and known is not None and k == len(self.schedule) - 1:
            discrete = before + self._smoothed(k, self.quantizer.codebook(known))
            total = self.edits.finished(total, discrete, hybrid=self.hart.residual is not None)
        return total, tuple(steps)

    def _prefix(self, context: Context, null_context: Context | None, second: SecondPrompts | None) -> Prefix:
        """Return the conditions of all branches, and an empty cache."""
        images, null_rows = len(context), 0
        parts = self._apart(context)
        if second is not None:
            parts += self._apart(second.context)
        if self.settings.guided and null_context is not None:
            parts += self._apart(null_context)
        elif self.settings.guided:
            null_rows = images
            parts += self._apart(context.null().rows(slice(0, 1))) * images  # all rows are the same
        conditioning = Conditioning.cat(parts)
        unkept = last_call(self.hart.config, self.schedule, self.settings.shared.maskgit_steps)
        cache = self.transformer.new_cache(len(conditioning.head_modulation), self.schedule, unkept)
        return Prefix(conditioning, cache, null_rows, second, self.settings.guided)

    def _apart(self, context: Context) -> list[Conditioning]:
        """Return the conditions of a batch; one by one on a CPU, where rounding depends on the number of rows."""
        rows = 1 if self.codebook.device.type == "cpu" else len(context)
        return [self.transformer.condition(context.rows(slice(i, i + rows))) for i in range(0, len(context), rows)]

    def _has_residual(self, k: int) -> bool:
        """Return whether scale k is completed by the residual of a hybrid model."""
        return k == len(self.schedule) - 1 and self.hart.residual is not None

    def _is_masked(self, k: int) -> bool:
        """Return whether each step of scale k sees the codes of the steps before it."""
        return k == len(self.schedule) - 1 and self.hart.config.transformer.masked_last_scale

    def _given_first(self, k: int, known: Tensor | None, total: Tensor) -> Tensor | None:
        """Return codes (B, N_k) that the first step of a masked scale k is given: those edits keep, -1 for the rest."""
        if not self._is_masked(k):
            return None
        if self.edits is None or known is None:
            return torch.full((len(total), self.schedule.token_counts[k]), -1, device=total.device)
        return known.masked_fill(self.edits.generated(k), -1)

    def _positions(self, k: int) -> Iterator[Tensor | None]:
        """Yield the tokens that each step of scale k samples, (B, N) in raster order; None: all at once."""
        count = left = self.schedule.token_counts[k]
        in_steps = self._has_residual(k) or self._is_masked(k)
        sizes = maskgit_step_sizes(count, self.settings.shared.maskgit_steps) if in_steps else [count]
        if len(sizes) == 1:
            yield None
            return
        order = self.noise.order(count)
        for size in sizes:  # from the end of the order to its start
            yield order[:, left - size : left].sort(dim=1).values
            left -= size

    def _smoothed(self, k: int, tokens: Tensor) -> Tensor:
        """Apply phi to the code embeddings (B, N_k, D) of scale k: their term (B, D, h, w) of the running sum."""
        # one by one on a CPU, where convolutions round differently for larger batches
        images = tokens.to(self.codebook.dtype).split(1 if tokens.device.type == "cpu" else len(tokens))
        return torch.cat([self.quantizer.contribution(image, k, self.schedule) for image in images]).float()

    def _step(
        self,
        k: int,
        total: Tensor,
        prefix: Prefix,
        positions: Tensor | None,
        known: Tensor | None,
        given: Tensor | None,
    ) -> TokenStep:
        """Sample tokens of scale k, given the sum (B, D, h, w) of all scales before it, and codes (B, N_k) to keep.

        given: (B, N_k), codes of a masked scale that the step sees; the residual then comes after all steps.
        """
        settings = self.settings
        has_residual = self._has_residual(k) and given is None
        guidance = settings.guidance[k]
        hidden = self._hidden(k, total, prefix, positions, given)
        own, other, null = prefix.branches(self.transformer.logits(hidden, prefix.conditioning))
        logits = own if prefix.second is None else prefix.second.mixed(k, own, other)
        if null is not None:
            logits = guided(logits, null, guidance)
        if self.edits is not None:
            logits = self.edits.styled(k, logits, total, self.schedule.grids[k], self.quantizer)
        places = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0) if positions is None else positions
        candidates = filtered(logits, settings.candidates[k], settings.top_p, settings.row_top_k[k])
        to_sample, to_mix = self.noise.gumbel(k, places, candidates)
        codes, plain = sample_by_gumbel(candidates, to_sample), None
        if self.edits is not None and known is not None:
            if (followed := self.edits.followed(k)) is not None:
                source = other if null is None else guided(other, null, guidance)
                codes = torch.where(followed, self._followed(k, places, logits, source, candidates), codes)
            codes, sampled = self.edits.codes(k, positions, codes, known)
            plain = (~sampled if followed is None else ~sampled | followed).unsqueeze(-1)
        tokens = self._embeddings(k, codes, candidates, to_mix, plain)
        residual = None
        if has_residual and not settings.shared.discrete_only:
            residual = self._residual(k, hidden, codes, guidance, places, prefix)
            tokens = tokens + residual
        # values that overflowed make the image NaN, which is checked once, when its pixels leave the device
        sound = candidates.logits.amax(dim=(1, 2), keepdim=True).isfinite()
        return TokenStep(positions, logits, codes, tokens.where(sound, torch.nan), residual)

    def _completed(
        self, k: int, total: Tensor, prefix: Prefix, given: Tensor, steps: Sequence[TokenStep]
    ) -> list[TokenStep]:
        """Add residual tokens to the steps of a masked scale k, for which the transformer sees all codes (B, N_k)."""
        places = torch.arange(given.shape[1], device=given.device).unsqueeze(0)
        hidden = self._hidden(k, total, prefix, None, given)
        residual = self._residual(k, hidden, given, self.settings.guidance[k], places, prefix)
        completed = []
        for step in steps:
            own = residual if step.positions is None else gather_tokens(residual, step.positions)
            completed.append(replace(step, tokens=step.tokens + own, residual=own))
        return completed

    def _embeddings(
        self, k: int, codes: Tensor, candidates: Candidates, to_mix: Tensor, plain: Tensor | None
    ) -> Tensor:
        """Return embeddings (B, N, D) of codes (B, N), or mixtures of all candidates' embeddings.

        plain: (B, N, 1) bool, tokens that are never mixed, whatever the settings.
        """
        if (smoothing := self.settings.gumbel_smoothing) is None:
            return self.quantizer.codebook(codes).float()
        mixed = gumbel_mixture(candidates, to_mix, ratio_at(k, self.schedule, self.hart.config), self.codebook)
        if plain is not None:
            smoothing = smoothing & ~plain
        return torch.where(smoothing, mixed, self.quantizer.codebook(codes).float())

    def _followed(
        self, k: int, places: Tensor, logits: Tensor, source_logits: Tensor, candidates: Candidates
    ) -> Tensor:
        """Return codes (B, N) at `places` of scale k that follow the source's."""
        assert self.edits is not None
        own = self.edits.own_codes(k)
        noise = self.noise.gumbel(k, places, Candidates(logits, None))
        return followed_codes(logits, source_logits, gather_tokens(own, places.expand(len(own), -1)), candidates, noise)

    def _hidden(self, k: int, total: Tensor, prefix: Prefix, positions: Tensor | None, given: Tensor | None) -> Tensor:
        """Return hidden states (rows, N, C) of scale k for all branches."""
        if k == 0:
            return self.transformer.first_scale(prefix.conditioning, prefix.cache, prefix.null_rows)
        scale_input = next_scale_input(total, self.schedule.grids[k])
        if given is not None:
            scale_input = with_given_codes(scale_input, given, self.quantizer.codebook)
            cache = prefix.cache.rows(slice(None))  # the next step recomputes these tokens
            inputs = prefix.spread(scale_input), prefix.conditioning, cache, None, self.schedule
            hidden = self.transformer.next_scale(k, *inputs, prefix.spread(given >= 0))
            return hidden if positions is None else gather_tokens(hidden, prefix.spread(positions))
        if positions is not None:
            scale_input, positions = gather_tokens(scale_input, positions), prefix.spread(positions)
        return self.transformer.next_scale(
            k, prefix.spread(scale_input), prefix.conditioning, prefix.cache, positions, self.schedule
        )

    def _residual(
        self, k: int, hidden: Tensor, codes: Tensor, guidance: Guidance, places: Tensor, prefix: Prefix
    ) -> Tensor:
        """Sample residual tokens (B, N, D) for the hidden states of all branches and the sampled codes (B, N)."""
        condition = self.hart.residual_condition(hidden, prefix.spread(self.quantizer.codebook(codes)))
        conditional, other, null = prefix.branches(condition)
        if prefix.second is not None:
            conditional = prefix.second.mixed(k, conditional, other)
        steps = self.hart.config.diffusion_steps(self.settings.shared)
        noise = self.noise.residual(places, self.codebook.shape[1], steps)
        return self.hart.residual_head().sample(conditional, null, guidance, noise)


def _in_raster_order(steps: Sequence[TokenStep]) -> Tensor:
    """Return the tokens (B, N_k, D) of all steps of a scale in raster order."""
    tokens = torch.cat([step.tokens for step in steps], dim=1)
    positions = [step.positions for step in steps if step.positions is not None]
    return gather_tokens(tokens, torch.cat(positions, dim=1).argsort(dim=1)) if positions else tokens


def _check_rows(rows: Sequence[int], images: int) -> None:
    if not rows or list(rows) != sorted(set(rows)) or not 0 <= rows[0] <= rows[-1] < images:
        raise HartError(f"rows {list(rows)}: give numbers from 0 to {images - 1}, ascending, at least one")
