"""Editing without training: what an image of a batch keeps of a source, scale by scale, and second prompts.

A position that is kept does not take the code that the source had there, but the one nearest to what is still missing
of the source: the tokenizer's own rule, applied to the sum as it stands. So what leaked over the border from generated
positions is corrected at the next scale, and as long as everything is kept, the codes are the source's own. After the
last scale of a hybrid model kept positions are the source's latent exactly. Where a model's coarse codes are those of
the image made small (`base_scales` of `TokenizerConfig`), so are the source's, whatever is generated beside them.

An edit without a mask follows the source by its noise (after VARIN, arXiv 2509.01984): a code is sampled from the new
prompt with Gumbel noise under which the source's own prompt would have given the source's code. Where both prompts
predict the same, the source's code comes out.

A style reference is taken by its tokens, wherever they are: at the coarse scales codes are preferred by which a token
comes near one of the reference's.

Shapes: B images, K scales, N_k tokens of scale k, V codes, D latent channels, h w
latent, H W pixels, R tokens of a style reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.data.transforms import pixels_to_pil
from hart.devices import row_index, sent
from hart.errors import HartError
from hart.generation.arguments import Prompt, listed_values
from hart.generation.guidance_and_sampling import Candidates
from hart.grids import Grid, ScaleSchedule
from hart.sizes import ImageSize
from hart.strict import shown, whole_number
from hart.tokenizer.quantizer import MultiScaleQuantizer, next_scale_input
from hart.transformer.transformer import gather_tokens
from hart.types import Context, Rows

SHARE = 0.25
"""A position of a coarse scale is generated if more than this share of what it covers is to be redrawn. With a half,
the coarse scales stay the source's under a mask of half the image, and no colour changes there."""
FEATHER = 4
"""Pixels inside the mask's border over which the original turns into what was generated."""
STYLED = 0.7
"""Share of the scales at which a style reference is followed: finer ones would copy its parts."""
STYLE_WEIGHT = 10.0
"""Nats that a code costs at strength 1 if it leaves its token as far from the reference's as codes are long (RMS)."""
MAX_STYLE = 10.0
"""Times the usual strength of a style, beyond which nothing of the prompt is left."""


@dataclass(frozen=True, eq=False)
class Edit:
    """What one image keeps of a source; `HartPipeline.prepare_edit` makes it of images.

    pixels: (3, H, W) uint8, the source on the canvas, which has the size of the image.
    redraw: (H, W) bool, where the image is generated anew; None: everywhere.
    kept_scales: at this many first scales all codes are the source's.
    source_prompt: describes the source; of an edit that follows it. A prompt or one row of features.
    followed_scales: from `kept_scales` up to this many first scales codes are sampled with the source's noise.
    style_strength: how strongly what is generated takes on the colours of `style` (0: not at all, 1: clearly).
    style: (3, H, W) uint8, another image; None: the source, as far as it is not redrawn.
    """

    pixels: Tensor
    redraw: Tensor | None = None
    kept_scales: int = 0
    source_prompt: Prompt | Context | None = None
    followed_scales: int = 0
    style_strength: float = 0.0
    style: Tensor | None = None

    @property
    def size(self) -> str:
        """Of the image in pixels, `192x128`: what `generate_rows` takes."""
        return str(ImageSize(self.pixels.shape[2], self.pixels.shape[1]))

    def finished(self, generated: Image.Image) -> Image.Image:
        """An image of this edit with the original pixels put back outside the mask, and in a soft border inside it."""
        if self.redraw is None:
            return generated
        share = self._new_share.unsqueeze(-1)
        original, new = self.pixels.permute(1, 2, 0).float(), torch.from_numpy(np.array(generated)).float()
        return pixels_to_pil((original * (1 - share) + new * share).round().to(torch.uint8))

    @cached_property
    def _new_share(self) -> Tensor:
        """(H, W) float in [0, 1]: 0 outside the mask, growing from its border to 1 inside; no border at the image's."""
        assert self.redraw is not None
        layer = self.redraw.float()[None, None]
        layers = [layer]
        for _ in range(FEATHER - 1):
            layers.append(-F.max_pool2d(-layers[-1], 3, stride=1, padding=1))
        # thin masks reach 1 in their middle, too
        total = torch.stack(layers).sum(dim=0)
        return (total / F.max_pool2d(total, 2 * FEATHER + 1, stride=1, padding=FEATHER).clamp(min=1))[0, 0]


@dataclass(frozen=True)
class PromptMix:
    """A second prompt of an image. weights: K of them in [0, 1], its share in the logits of each scale."""

    prompt: Prompt | Context
    weights: tuple[float, ...]


def mix_weights(scales: int, weights: Sequence[float] | None, switch: int | None) -> tuple[float, ...]:
    """The weights of a `PromptMix` from the arguments of `Editing.mix`. Raises `HartError` for both."""
    if weights is not None and switch is not None:
        raise HartError("give either weights or a switch")
    if weights is not None:
        if (listed := listed_values(weights)) is None:
            raise HartError(f"weights {shown(weights)}: give {scales} from 0 to 1, one for each scale")
        return tuple(listed)
    first = whole_number("switch", scales // 2 if switch is None else switch, 0, scales)
    return tuple(float(k >= first) for k in range(scales))


@dataclass(frozen=True)
class SecondPrompts(Rows):
    """What a batch computes beside its own prompts: for each image a second one, or its own again.

    context: of B rows. weights: (B, K), their share in the logits of each scale; None if no image mixes.
    """

    context: Context
    weights: Tensor | None

    def mixed(self, k: int, own: Tensor, other: Tensor) -> Tensor:
        """Both (B, N, C) by their weights at scale k; `own` exactly where the weight is 0."""
        return own if self.weights is None else torch.lerp(own, other, self.weights[:, k, None, None].to(own.dtype))


@dataclass(frozen=True)
class Style:
    """The colours of a reference. tokens: of each scale at which it is followed (R, D), parts of its latent."""

    strength: float
    tokens: tuple[Tensor, ...]

    def penalty(self, k: int, inputs: Tensor, quantizer: MultiScaleQuantizer) -> Tensor:
        """(N_k, V), what a code costs: how far it leaves its token from the nearest of the reference's.

        inputs: (N_k, D), the sum of the scales before k.
        """
        # one token after the other: all distances at once, (N_k, R, V), would be much memory
        distances = torch.stack([quantizer.distances(self.tokens[k] - sum_so_far).amin(dim=0) for sum_so_far in inputs])
        return self.strength * STYLE_WEIGHT * distances / quantizer.codebook.weight.float().square().sum(dim=1).mean()


@dataclass(frozen=True)
class BatchEdits(Rows):
    """The edits of a batch; an image without one generates everything.

    latent: (B, D, h, w) float32. redraw: (B, 1, h, w) bool. generated: K tensors (B, N_k) bool, of sampled codes.
    kept: K of (B, 1, 1, 1) bool, scales that are the source's everywhere.
    discrete: (B, 1, 1, 1) bool, images of which all scales are; None if there are none.
    followed: K of (B, 1) bool, or None where no image follows its source; own_codes: then K of (B, N_k).
    styles: of each image that takes one. coarse: (B, N_k) of the first scales, the codes of sources made small.
    """

    latent: Tensor
    redraw: Tensor
    generated: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    discrete: Tensor | None
    followed: tuple[Tensor | None, ...]
    own_codes: tuple[Tensor, ...]
    styles: tuple[Style | None, ...]
    coarse: tuple[Tensor, ...]

    def of(self, rows: Sequence[int]) -> BatchEdits:
        """For some images of the batch alone."""
        part = self.rows(row_index(rows, self.latent.device))
        return replace(part, styles=tuple(self.styles[row] for row in rows))

    def known_codes(self, k: int, total: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
        """(B, N_k), the codes nearest to what the sum (B, D, h, w) of the scales before k lacks of the source.

        What is redrawn has no part in the mean over a position.
        """
        if k < len(self.coarse):
            return self.coarse[k]
        known = (~self.redraw | self.kept[k]).to(total.dtype)
        return _nearest(self.latent - total, known, grid, quantizer)

    def styled(self, k: int, logits: Tensor, total: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
        """Logits (B, N_k, V) of all tokens of scale k, less the penalties of images with a style."""
        if not any(style is not None and k < len(style.tokens) for style in self.styles):
            return logits
        inputs = next_scale_input(total, grid)
        return torch.stack(
            [
                own if style is None else own - style.penalty(k, inputs[i], quantizer)
                for i, (own, style) in enumerate(zip(logits, self.styles, strict=True))
            ]
        )

    def codes(self, k: int, positions: Tensor | None, sampled: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (B, N) of a step of scale k, and where they are the sampled ones."""
        generated = self.generated[k]
        if positions is not None:
            generated, known = gather_tokens(generated, positions), gather_tokens(known, positions)
        return torch.where(generated, sampled, known), generated

    def finished(self, total: Tensor, discrete: Tensor, *, hybrid: bool) -> Tensor:
        """The latent (B, D, h, w) after the last scale.

        discrete: the sum with phi at the last scale too, as images are quantised.
        hybrid: whether kept positions end as the source's latent.
        """
        if hybrid:
            total = torch.where(self.redraw, total, self.latent)
        return total if self.discrete is None else torch.where(self.discrete, discrete, total)


def batch_edits(
    edits: Sequence[Edit | None],
    latent_of: Callable[..., Tensor],
    quantizer: MultiScaleQuantizer,
    schedule: ScaleSchedule,
    smaller: ScaleSchedule | None = None,
) -> BatchEdits | None:
    """The edits of the images of a batch; None if there are none.

    latent_of: the latent (D, h, w) of an edit's pixels, on the device of `quantizer`; with a grid, of them made small.
    smaller: of the images made small that decide the coarse codes, see `HybridTokenizer.smaller`.
    """
    if all(edit is None for edit in edits):
        return None
    codebook, scales, (height, width) = quantizer.codebook.weight, len(schedule), schedule.final
    device = codebook.device
    nothing = codebook.new_zeros(codebook.shape[1], height, width, dtype=torch.float32)
    latent = torch.stack([nothing if edit is None else latent_of(edit.pixels).float() for edit in edits])
    everywhere = torch.ones(1, height, width, dtype=torch.bool, device="cpu")
    redrawn = [
        everywhere if edit is None or edit.redraw is None else _any_redrawn(edit.redraw, schedule.final)
        for edit in edits
    ]
    redraw = sent(torch.stack(redrawn), device)
    kept_scales = [0 if edit is None else edit.kept_scales for edit in edits]
    ends = [0 if edit is None or edit.source_prompt is None else edit.followed_scales for edit in edits]
    follow = [[kept <= k < end for kept, end in zip(kept_scales, ends, strict=True)] for k in range(scales)]
    # (2, K, B): scales that are kept, and followed
    rules = torch.tensor([[[k < kept for kept in kept_scales] for k in range(scales)], follow], device="cpu")
    kept, followed = sent(rules, device)
    generated = []
    for k, grid in enumerate(schedule):
        covered = next_scale_input(redraw.float(), grid).squeeze(-1)
        generated.append((covered > (SHARE if k < scales - 1 else 0)) & ~kept[k].unsqueeze(-1))
    coarse, own_coarse = _coarse_codes(edits, latent_of, quantizer, smaller) if smaller is not None else ((), ())
    return BatchEdits(
        latent,
        redraw,
        tuple(generated),
        kept[..., None, None, None].unbind(),
        discrete=kept[-1].view(-1, 1, 1, 1) if scales in kept_scales else None,
        followed=tuple(followed[k].unsqueeze(-1) if any(follow[k]) else None for k in range(scales)),
        own_codes=quantizer.encode(latent, schedule, known=own_coarse).indices if any(map(any, follow)) else (),
        styles=tuple(
            None if edit is None or edit.style_strength == 0 else _style(edit, latent_of, schedule, smaller)
            for edit in edits
        ),
        coarse=coarse,
    )


def _coarse_codes(
    edits: Sequence[Edit | None],
    latent_of: Callable[..., Tensor],
    quantizer: MultiScaleQuantizer,
    smaller: ScaleSchedule,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Codes (B, N_k) of sources made small, of all scales but the last: of what is kept of each, and of all of it."""
    grids, device = smaller.grids[:-1], quantizer.codebook.weight.device
    found, owns = [], []
    for edit in edits:  # one by one: products of few rows round by their number
        codes = own = [torch.zeros(1, grid.tokens, dtype=torch.int64, device=device) for grid in grids]
        if edit is not None:
            latent = latent_of(edit.pixels, smaller.final).float().unsqueeze(0)
            codes = own = list(quantizer.encode(latent, smaller).indices[:-1])
        if edit is not None and edit.redraw is not None:
            shown, total, codes = _shown(edit.redraw, smaller.final).to(device), torch.zeros_like(latent), []
            for k, grid in enumerate(grids):
                known = torch.ones_like(shown) if k < edit.kept_scales else shown
                codes.append(_nearest(latent - total, known, grid, quantizer))
                total = total + quantizer.contribution(quantizer.codebook(codes[k]), k, smaller)
        found.append(codes)
        owns.append(own)
    coarse, own_coarse = (tuple(map(torch.cat, zip(*rows, strict=True))) for rows in (found, owns))
    return coarse, own_coarse


def _nearest(missing: Tensor, known: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
    """(B, N_k), the codes nearest to the means of a map (B, D, h, w) over positions; known: (B, 1, h, w), weights."""
    share, means = next_scale_input(known, grid), next_scale_input(missing * known, grid)
    return quantizer.nearest(torch.where(share > 1 - 1e-5, means, means / share.clamp(min=1e-5)))


def _style(
    edit: Edit, latent_of: Callable[..., Tensor], schedule: ScaleSchedule, smaller: ScaleSchedule | None
) -> Style:
    """The colours that an edit asks for: of its source, of which what is redrawn does not count, or of its style."""
    pixels, tokens = edit.pixels if edit.style is None else edit.style, []
    for k, grid in enumerate(schedule.grids[: int(STYLED * len(schedule))]):
        if smaller is not None and k < len(smaller) - 1:
            latent = latent_of(pixels, smaller.final).float()
        else:
            latent = latent_of(pixels).float()
        known = torch.ones(1, 1, *latent.shape[-2:], dtype=torch.float32, device="cpu")
        if edit.style is None and edit.redraw is not None and not edit.redraw.all():
            known = _shown(edit.redraw, Grid(*latent.shape[-2:]))
        known = sent(known, latent.device)
        (share,), (means,) = next_scale_input(known, grid), next_scale_input(latent * known, grid)
        means = means / share.clamp(min=1e-5)
        # where there is nothing of it, one of its tokens stands twice
        tokens.append(torch.where(share > 1e-5, means, means.index_select(0, share[:, 0].argmax(dim=0, keepdim=True))))
    return Style(edit.style_strength, tuple(tokens))


def _shown(redraw: Tensor, grid: Grid) -> Tensor:
    """(1, 1, h, w), the share of each position of a latent that is not redrawn. redraw: (H, W) bool."""
    return F.adaptive_avg_pool2d((~redraw).float()[None, None], grid)


def followed_codes(
    logits: Tensor, source_logits: Tensor, own: Tensor, candidates: Candidates, noise: tuple[Tensor, Tensor]
) -> Tensor:
    """Codes (B, N) sampled from logits (B, N, V) with noise under which `source_logits` would have given `own` (B, N).

    candidates: what filters leave of `logits`; `own` may be sampled besides. noise: two of standard Gumbel numbers
    (B, N, V). The sum of logit and noise is largest at `own`: it takes the largest of all sums, and the code that had
    it a new one below, sampled from its distribution under this bound.
    """
    gumbel, fresh = noise
    sums = source_logits + gumbel
    top = sums.amax(dim=-1, keepdim=True)
    below = -torch.logaddexp(-top, -(source_logits + fresh))
    sums = torch.where(sums == top, below, sums).scatter(-1, own.unsqueeze(-1), top)
    sums = logits - source_logits + sums
    allowed = candidates.logits.isfinite()
    if candidates.codes is not None:
        allowed = torch.zeros_like(sums, dtype=torch.bool).scatter(-1, candidates.codes, allowed)
    allowed = allowed.scatter(-1, own.unsqueeze(-1), torch.ones_like(own, dtype=torch.bool).unsqueeze(-1))
    return sums.masked_fill(~allowed, -torch.inf).argmax(dim=-1)


def _any_redrawn(redraw: Tensor, grid: Grid) -> Tensor:
    """(1, h, w) bool: positions of the latent with a pixel that is redrawn."""
    blocks = redraw.unflatten(1, (grid.width, -1)).unflatten(0, (grid.height, -1))
    return blocks.any(dim=3).any(dim=1).unsqueeze(0).cpu()
