"""Training-free editing: what an image of a batch keeps of a source image, scale by scale, and second prompts.

A kept position does not take the source's own code there, but the code nearest to what is still missing of the source:
the tokenizer's own rule, applied to the current sum. So what leaked over the border from generated positions is
corrected at the next scale, and as long as everything is kept, the codes equal the source's. After the last scale of a
hybrid model, kept positions equal the source's latent exactly. If a model's coarse codes are those of the downscaled
image (`base_scales` of `TokenizerConfig`), the source's coarse codes are too, whatever is generated beside them.

An edit without a mask follows the source through its noise (after VARIN, arXiv 2509.01984): codes are sampled from the
new prompt with Gumbel noise under which the source's own prompt would have given the source's code. Where both prompts
predict the same, the result is the source's code.

A style reference is followed through its tokens, regardless of their position: at the coarse scales, codes that bring a
token close to one of the reference's tokens are preferred.

Shapes: B images, K scales, N_k tokens of scale k, V codes, D latent channels, h w
latent, H W pixels, R tokens of a style reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.data.transforms import pixels_to_pil
from hart.devices import sent
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
"""A position of a coarse scale is generated if more than this share of the area it covers is to be redrawn. With one
half, a mask of half the image would keep the source's coarse scales, and no colour would change there."""
FEATHER = 4
"""Pixels inside the mask's border over which the original fades into the generated image."""
STYLED = 0.7
"""Share of the scales at which a style reference is followed: finer scales would copy its parts."""
STYLE_WEIGHT = 10.0
"""Penalty in nats, at strength 1, of a code whose token is one RMS code length away from the reference's tokens."""
MAX_STYLE = 10.0
"""Largest style strength, as a multiple of the usual one; beyond it nothing of the prompt is left."""


@dataclass(frozen=True, eq=False)
class Edit:
    """What one image keeps of a source; made from images by `HartPipeline.prepare_edit`.

    pixels: (3, H, W) uint8, the source on a canvas of the image's size.
    redraw: (H, W) bool, where the image is generated anew; None: everywhere.
    kept_scales: at this many first scales, all codes are the source's.
    source_prompt: a description of the source, for an edit that follows it: a prompt or one row of features.
    followed_scales: from `kept_scales` up to this scale, codes are sampled with the source's noise.
    style_strength: how strongly what is generated takes on the colours of `style` (0: not at all, 1: clearly).
    style: (3, H, W) uint8, another image; None: the part of the source that is not redrawn.
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
        """Size of the image in pixels, e.g. `192x128`, as `generate_rows` takes it."""
        return str(ImageSize(self.pixels.shape[2], self.pixels.shape[1]))

    def finished(self, generated: Image.Image) -> Image.Image:
        """Return a generated image with the original pixels outside the mask, blended softly inside its border."""
        if self.redraw is None:
            return generated
        share = self._new_share.unsqueeze(-1)
        original, new = self.pixels.permute(1, 2, 0).float(), torch.from_numpy(np.array(generated)).float()
        return pixels_to_pil((original * (1 - share) + new * share).round().to(torch.uint8))

    @cached_property
    def _new_share(self) -> Tensor:
        """Return (H, W) float in [0, 1]: 0 outside the mask, rising to 1 inside; hard at the image's own border."""
        assert self.redraw is not None
        layer = self.redraw.float()[None, None]
        layers = [layer]
        for _ in range(FEATHER - 1):
            layers.append(-F.max_pool2d(-layers[-1], 3, stride=1, padding=1))
        # thin masks reach 1 in their middle too
        total = torch.stack(layers).sum(dim=0)
        return (total / F.max_pool2d(total, 2 * FEATHER + 1, stride=1, padding=FEATHER).clamp(min=1))[0, 0]


@dataclass(frozen=True)
class PromptMix:
    """A second prompt for an image. weights: K values in [0, 1], its share in the logits of each scale."""

    prompt: Prompt | Context
    weights: tuple[float, ...]


def mix_weights(scales: int, weights: Sequence[float] | None, switch: int | None) -> tuple[float, ...]:
    """Return the weights of a `PromptMix` from the arguments of `Editing.mix`. Raises `HartError` if both are given."""
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
    """What a batch computes besides its own prompts: for each image a second prompt, or its own again.

    context: B rows. weights: (B, K), the second prompts' share in the logits of each scale; None if no image mixes.
    """

    context: Context
    weights: Tensor | None

    def mixed(self, k: int, own: Tensor, other: Tensor) -> Tensor:
        """Mix both (B, N, C) by the weights of scale k; exactly `own` where the weight is 0."""
        return own if self.weights is None else torch.lerp(own, other, self.weights[:, k, None, None].to(own.dtype))


@dataclass(frozen=True)
class ImageEdit:
    """The edit of one image, on its device; without a source everything is generated.

    latent: (1, D, h, w) float32 of the source. redraw: (1, 1, h, w) bool. generated: K tensors (1, N_k) bool, which
    codes are sampled. kept: at this many first scales everything is the source's. followed: the scales at which the
    source is followed; own_codes are then K tensors (1, N_k). coarse: (1, N_k) for the first scales, the codes of the
    downscaled source. style: (R, D) for each scale that follows a reference, parts of its latent; strength: of style.
    """

    latent: Tensor
    redraw: Tensor
    generated: tuple[Tensor, ...]
    kept: int = 0
    followed: range = range(0)
    own_codes: tuple[Tensor, ...] = ()
    coarse: tuple[Tensor, ...] = ()
    style: tuple[Tensor, ...] = ()
    strength: float = 0.0

    def known_codes(self, k: int, total: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
        """Return codes (1, N_k) nearest to what the sum (1, D, h, w) of the scales before k lacks of the source.

        Redrawn pixels are left out of the mean over a position.
        """
        if k < len(self.coarse):
            return self.coarse[k]
        known = torch.ones_like(self.redraw) if k < self.kept else ~self.redraw
        return _nearest(self.latent - total, known.to(total.dtype), grid, quantizer)

    def penalty(self, k: int, inputs: Tensor, quantizer: MultiScaleQuantizer) -> Tensor:
        """Return (N_k, V), each code's penalty: the distance it leaves from its token to the nearest reference token.

        inputs: (N_k, D), the sum of the scales before k.
        """
        # token by token: all distances at once, (N_k, R, V), would take much memory
        distances = torch.stack([quantizer.distances(self.style[k] - sum_so_far).amin(dim=0) for sum_so_far in inputs])
        return self.strength * STYLE_WEIGHT * distances / quantizer.codebook.weight.float().square().sum(dim=1).mean()

    def finished(self, total: Tensor, discrete: Tensor, *, hybrid: bool) -> Tensor:
        """See `BatchEdits.finished`."""
        if self.kept == len(self.generated):
            return discrete
        return torch.where(self.redraw, total, self.latent) if hybrid else total


@dataclass(frozen=True)
class BatchEdits:
    """The edits of all images of a batch."""

    images: tuple[ImageEdit, ...]

    def of(self, rows: Sequence[int]) -> BatchEdits:
        """Return the edits of these images of the batch only."""
        return BatchEdits(tuple(self.images[row] for row in rows))

    def known_codes(self, k: int, total: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
        """Return (B, N_k), see `ImageEdit.known_codes`; total: (B, D, h, w)."""
        sums = total.split(1)
        return torch.cat([own.known_codes(k, x, grid, quantizer) for own, x in zip(self.images, sums, strict=True)])

    def generated(self, k: int) -> Tensor:
        """Return (B, N_k) bool: which codes of scale k are sampled."""
        return torch.cat([own.generated[k] for own in self.images])

    def followed(self, k: int) -> Tensor | None:
        """Return (B, 1) bool: which images follow their source at scale k; None if none does."""
        follow, device = [k in own.followed for own in self.images], self.images[0].redraw.device
        return torch.cat([torch.full((1, 1), one, device=device) for one in follow]) if any(follow) else None

    def own_codes(self, k: int) -> Tensor:
        """Return (B, N_k), the codes of followed sources; arbitrary codes for other images."""
        return torch.cat([own.own_codes[k] if own.own_codes else own.generated[k].long() for own in self.images])

    def styled(self, k: int, logits: Tensor, total: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
        """Return logits (B, N_k, V) of all tokens of scale k, less the penalties of images with a style."""
        if all(k >= len(own.style) for own in self.images):
            return logits
        inputs = next_scale_input(total, grid)
        return torch.stack(
            [
                row - own.penalty(k, given, quantizer) if k < len(own.style) else row
                for own, row, given in zip(self.images, logits, inputs, strict=True)
            ]
        )

    def codes(self, k: int, positions: Tensor | None, sampled: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (B, N) of a step of scale k, and where they are the sampled ones."""
        generated = self.generated(k)
        if positions is not None:
            generated, known = gather_tokens(generated, positions), gather_tokens(known, positions)
        return torch.where(generated, sampled, known), generated

    def finished(self, total: Tensor, discrete: Tensor, *, hybrid: bool) -> Tensor:
        """Return the latent (B, D, h, w) after the last scale.

        discrete: the sum with phi applied at the last scale too, as images are quantised.
        hybrid: whether kept positions end as the source's latent.
        """
        rows = zip(self.images, total.split(1), discrete.split(1), strict=True)
        return torch.cat([own.finished(x, codes, hybrid=hybrid) for own, x, codes in rows])


def batch_edits(
    edits: Sequence[Edit | None],
    latent_of: Callable[..., Tensor],
    quantizer: MultiScaleQuantizer,
    schedule: ScaleSchedule,
    smaller: ScaleSchedule | None = None,
) -> BatchEdits | None:
    """Return the edits of the images of a batch; None if there are none.

    latent_of: returns the latent (D, h, w) of an edit's pixels, on the device of `quantizer`; given a grid, that of the
    downscaled pixels. smaller: the schedule of the downscaled images that decide the coarse codes, see
    `HybridTokenizer.smaller`.
    """
    if all(edit is None for edit in edits):
        return None
    return BatchEdits(tuple(_image_edit(edit, latent_of, quantizer, schedule, smaller) for edit in edits))


def _image_edit(
    edit: Edit | None,
    latent_of: Callable[..., Tensor],
    quantizer: MultiScaleQuantizer,
    schedule: ScaleSchedule,
    smaller: ScaleSchedule | None,
) -> ImageEdit:
    codebook = quantizer.codebook.weight
    redraw = torch.ones(1, 1, *schedule.final, dtype=torch.bool, device="cpu")
    if edit is not None and edit.redraw is not None:
        redraw = _any_redrawn(edit.redraw, schedule.final)
    redraw, kept, generated = sent(redraw, codebook.device), 0 if edit is None else edit.kept_scales, []
    for k, grid in enumerate(schedule):
        covered = next_scale_input(redraw.float(), grid).squeeze(-1)
        generated.append((covered > SHARE) & (k >= kept))  # at the last scale, all or nothing
    if edit is None:
        nothing = codebook.new_zeros(1, codebook.shape[1], *schedule.final, dtype=torch.float32)
        return ImageEdit(nothing, redraw, tuple(generated))
    latent = latent_of(edit.pixels).float().unsqueeze(0)
    followed = range(kept, edit.followed_scales)
    coarse, own_coarse = ((), ()) if smaller is None else _coarse_codes(edit, latent_of, quantizer, smaller)
    own_codes = quantizer.encode(latent, schedule, known=own_coarse).indices if followed else ()
    style = _style(edit, latent_of, schedule, smaller) if edit.style_strength else ()
    return ImageEdit(latent, redraw, tuple(generated), kept, followed, own_codes, coarse, style, edit.style_strength)


def _coarse_codes(
    edit: Edit, latent_of: Callable[..., Tensor], quantizer: MultiScaleQuantizer, smaller: ScaleSchedule
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return codes (1, N_k) of a downscaled source for all scales but the last: of its kept part, and of all of it."""
    latent = latent_of(edit.pixels, smaller.final).float().unsqueeze(0)
    own = quantizer.encode(latent, smaller).indices[:-1]
    if edit.redraw is None:
        return own, own
    shown, total, codes = _shown(edit.redraw, smaller.final).to(latent.device), torch.zeros_like(latent), []
    for k, grid in enumerate(smaller.grids[:-1]):
        known = torch.ones_like(shown) if k < edit.kept_scales else shown
        codes.append(_nearest(latent - total, known, grid, quantizer))
        total = total + quantizer.contribution(quantizer.codebook(codes[k]), k, smaller)
    return tuple(codes), own


def _nearest(missing: Tensor, known: Tensor, grid: Grid, quantizer: MultiScaleQuantizer) -> Tensor:
    """Return codes (B, N_k) nearest to the means of a map (B, D, h, w) over positions; known: weights (B, 1, h, w)."""
    share, means = next_scale_input(known, grid), next_scale_input(missing * known, grid)
    return quantizer.nearest(torch.where(share > 1 - 1e-5, means, means / share.clamp(min=1e-5)))


def _style(
    edit: Edit, latent_of: Callable[..., Tensor], schedule: ScaleSchedule, smaller: ScaleSchedule | None
) -> tuple[Tensor, ...]:
    """Return the tokens whose colours an edit takes on: its style's, or its source's without the redrawn area."""
    pixels, tokens = edit.pixels if edit.style is None else edit.style, []
    for k, grid in enumerate(schedule.grids[: int(STYLED * len(schedule))]):
        small = (smaller.final,) if smaller is not None and k < len(smaller) - 1 else ()
        latent = latent_of(pixels, *small).float()
        known = torch.ones(1, 1, *latent.shape[-2:], dtype=torch.float32, device="cpu")
        if edit.style is None and edit.redraw is not None and not edit.redraw.all():
            known = _shown(edit.redraw, Grid(*latent.shape[-2:]))
        known = sent(known, latent.device)
        (share,), (means,) = next_scale_input(known, grid), next_scale_input(latent * known, grid)
        means = means / share.clamp(min=1e-5)
        # an empty position repeats another token
        tokens.append(torch.where(share > 1e-5, means, means.index_select(0, share[:, 0].argmax(dim=0, keepdim=True))))
    return tuple(tokens)


def _shown(redraw: Tensor, grid: Grid) -> Tensor:
    """Return (1, 1, h, w), the share of each latent position that is not redrawn. redraw: (H, W) bool."""
    return F.adaptive_avg_pool2d((~redraw).float()[None, None], grid)


def followed_codes(
    logits: Tensor, source_logits: Tensor, own: Tensor, candidates: Candidates, noise: tuple[Tensor, Tensor]
) -> Tensor:
    """Sample codes (B, N) from logits (B, N, V) with noise under which `source_logits` would have given `own` (B, N).

    candidates: what filters leave of `logits`; `own` may be sampled besides. noise: two tensors (B, N, V) of standard
    Gumbel numbers. The sum of logit and noise must be largest at `own`, so it is swapped in: `own` takes the maximum,
    and the code that had it gets a new sum below, sampled from its distribution under this bound.
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
    """Return (1, 1, h, w) bool: latent positions with at least one redrawn pixel."""
    blocks = redraw.unflatten(1, (grid.width, -1)).unflatten(0, (grid.height, -1))
    return blocks.any(dim=3).any(dim=1)[None, None].cpu()
