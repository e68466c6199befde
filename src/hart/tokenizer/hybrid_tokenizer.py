"""The hybrid tokenizer (paper, section 3.1): an image as discrete tokens at growing scales plus a continuous residual.

One decoder reads two kinds of latent: the sum of codes (discrete tokens alone) and the encoder's own output (discrete
plus continuous tokens).

Shapes: B batch, H W image, f pixels per latent position along a side, D latent channels, h w latent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from hart.config import TokenizerConfig
from hart.grids import Grid, ScaleSchedule, grid_of_scale
from hart.layers.linear import without_autocast
from hart.tokenizer.autoencoder import Decoder, Encoder
from hart.tokenizer.quantizer import Corruption, MultiScaleQuantizer, QuantizedLatent, next_scale_input, pool, to_map
from hart.tokenizer.tiling import decode_in_strips
from hart.types import TokenMaps


@dataclass(frozen=True)
class TrainingPass:
    """The result of a training step's pass through the tokenizer.

    latent: (B, D, h, w), to be decoded; discrete or continuous.
    quantizer_loss: scalar, the codebook and commitment terms, the same for both kinds.
    quantized: the codes, for usage statistics.
    """

    latent: Tensor
    quantizer_loss: Tensor
    quantized: QuantizedLatent


class HybridTokenizer(nn.Module):
    """Encoder, quantiser, decoder, and the convolutions between them."""

    DECODING = ("post_quant_conv.", "decoder.")
    """Name prefixes of the weights that codes do not depend on."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        kernel = config.quant_conv_kernel
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, kernel, padding=kernel // 2)
        self.quantizer = MultiScaleQuantizer(
            config.codebook_size, config.latent_channels, config.shared_phi, config.phi_weight
        )
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, kernel, padding=kernel // 2)
        self.decoder = Decoder(config)
        self.in_strips = False  # whether images are decoded in strips, which takes less memory

    def encode(self, image: Tensor) -> Tensor:
        """Encode an image (B, 3, H, W) in [-1, 1] to its continuous latent (B, D, H/f, W/f)."""
        encoder = self.encoder
        if not torch.is_grad_enabled() and encoder.conv_in.weight.dtype != torch.float32:
            encoder = copy.deepcopy(encoder).float()  # weights may be stored in fewer bits, but codes need float32
        return self.quant_conv(encoder(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a latent (B, D, h, w) to an image (B, 3, f h, f w) clamped to [-1, 1]."""
        return self.decode_unclamped(latent).clamp(-1, 1)

    def decode_unclamped(self, latent: Tensor) -> Tensor:
        """Decode like `decode` but without the clamp, as reconstruction losses need it."""
        latent = self.post_quant_conv(latent.to(self.post_quant_conv.weight.dtype))
        return decode_in_strips(self.decoder, latent) if self.in_strips else self.decoder(latent)

    def smaller(self, schedule: ScaleSchedule | None = None) -> ScaleSchedule | None:
        """Return the schedule of the downscaled images from which `base_scales` takes the codes of all its scales but
        the last, for images of `schedule`. None if all their codes are their own."""
        base, schedule = self.config.base_scales, schedule or self.config.schedule
        final, size = schedule.final, schedule.final.equal_square
        if not base or size <= base[-1]:
            return None
        # a latent about as large as the model's own has the model's own scales (`schedule_of_grid`)
        begins = (
            (Grid(1, 1), *(grid_of_scale(n, last, final) for n in base[1:-1]))
            for last in (size, self.config.scales[-1])
        )
        coarse = schedule.grids[: len(base) - 1]
        if coarse not in begins:
            return None
        small = Grid(*(round(side * base[-1] / size) for side in final))
        grows = small != coarse[-1] and small.height >= coarse[-1].height and small.width >= coarse[-1].width
        return ScaleSchedule((*coarse, small)) if grows else None

    def deciding_scales(self, schedules: Iterable[ScaleSchedule]) -> tuple[int, ...]:
        """Return `base_scales` if they decide codes of images of any of these schedules, else an empty tuple."""
        return self.config.base_scales if any(map(self.smaller, schedules)) else ()

    def encode_small(self, image: Tensor, grid: Grid) -> Tensor:
        """Return the continuous latent (B, D, *grid) in float32 of a downscaled image (B, 3, H, W)."""
        return self.encode(pool(image, Grid(*(side * self.config.downsampling for side in grid))))

    def coarse_codes(self, image: Tensor, schedule: ScaleSchedule | None = None) -> tuple[Tensor, ...]:
        """Return codes of an image (B, 3, H, W) for the first scales of `schedule`, if `base_scales` decides any."""
        if (smaller := self.smaller(schedule)) is None:
            return ()
        return self.quantize(self.encode_small(image, smaller.final), smaller).indices[:-1]

    def quantize(
        self, latent: Tensor, schedule: ScaleSchedule | None = None, coarse: Sequence[Tensor] = ()
    ) -> QuantizedLatent:
        """Return the codes of a latent over `schedule`, by default the configured one. coarse: from `coarse_codes`."""
        return self.quantizer.encode(latent, schedule or self.config.schedule, known=coarse)

    def quantize_image(self, image: Tensor, schedule: ScaleSchedule | None = None) -> QuantizedLatent:
        """Return the codes of an image (B, 3, H, W) over `schedule`, by default the configured one."""
        return self.quantize(self.encode(image), schedule, self.coarse_codes(image, schedule))

    def token_maps(
        self,
        latent: Tensor,
        schedule: ScaleSchedule | None = None,
        code_corruption: Corruption | None = None,
        coarse: Sequence[Tensor] = (),
    ) -> TokenMaps:
        """Return the transformer's targets and teacher-forcing input for a continuous latent (B, D, h, w).

        code_corruption: puts wrong codes into the teacher-forcing input, which the targets of later scales correct.
        coarse: from `coarse_codes`; they stay as they are.
        """
        schedule = schedule or self.config.schedule
        quantized = self.quantizer.encode(latent, schedule, code_corruption, coarse)
        last = quantized.last_residual.flatten(2).transpose(1, 2)
        inputs = _teacher_forcing_input(quantized.partial_sums[:-1], schedule)
        return TokenMaps(quantized.indices, inputs, last, schedule)

    def token_maps_of_image(
        self, image: Tensor, schedule: ScaleSchedule | None = None, code_corruption: Corruption | None = None
    ) -> TokenMaps:
        """Return `token_maps` of an image (B, 3, H, W)."""
        return self.token_maps(self.encode(image), schedule, code_corruption, self.coarse_codes(image, schedule))

    def token_maps_from_codes(
        self,
        indices: tuple[Tensor, ...],
        last_scale_continuous: Tensor | None = None,
        schedule: ScaleSchedule | None = None,
    ) -> TokenMaps:
        """Return `token_maps` of stored codes: K tensors (B, N_k), and (B, N_K, D) if the residual was stored too.

        Without the residual, `last_scale_continuous` is the last scale's code embeddings, so that the residual is zero.
        """
        schedule = schedule or self.config.schedule
        last = self.quantizer.codebook(indices[-1]) if last_scale_continuous is None else last_scale_continuous
        return TokenMaps(indices, _teacher_forcing_input(self._totals(indices, schedule), schedule), last, schedule)

    def latent_from_codes(
        self, indices: tuple[Tensor, ...], last_scale_continuous: Tensor, schedule: ScaleSchedule
    ) -> Tensor:
        """Return the continuous latent (B, D, h, w) of stored codes and residual; see `token_maps_from_codes`."""
        *_, before_last = self._totals(indices, schedule)
        return before_last + to_map(last_scale_continuous, schedule.final)

    def _totals(self, indices: tuple[Tensor, ...], schedule: ScaleSchedule) -> Iterator[Tensor]:
        """Yield the running sum (B, D, h, w) after each scale but the last."""
        terms = (
            self.quantizer.contribution(self.quantizer.codebook(indices[k]), k, schedule)
            for k in range(len(schedule) - 1)
        )
        return accumulate(terms, torch.add)

    def reconstruct(self, image: Tensor, schedule: ScaleSchedule | None = None) -> tuple[Tensor, Tensor]:
        """Encode and decode an image (B, 3, H, W) in [-1, 1], from codes only and from codes plus the exact residual.
        The latter is the encoder's own latent: what hybrid tokens would reach if the residual were sampled exactly.
        """
        latent = self.encode(image)
        codes = self.quantize(latent, schedule, self.coarse_codes(image, schedule))
        return self.decode(codes.latent), self.decode(latent)

    def training_pass(
        self,
        image: Tensor,
        *,
        discrete: bool,
        schedule: ScaleSchedule | None = None,
        code_corruption: Corruption | None = None,
        residual_corruption: Corruption | None = None,
    ) -> TrainingPass:
        """Encode and quantise with gradients: straight through the codes, or the continuous latent itself.

        schedule: of the images, by default the configured one.
        code_corruption: puts wrong codes into the decoded sum; see `MultiScaleQuantizer.encode`.
        residual_corruption: puts wrong residual tokens into a continuous latent, and then the wrong codes as well.
        """
        schedule = schedule or self.config.schedule
        latent = self.encode(image).float()
        # distances to codes and the residual need float32, in autocast too
        with without_autocast(latent.device.type):
            with torch.no_grad():
                coarse = self.coarse_codes(image, schedule)
            quantized = self.quantizer.encode(latent, schedule, code_corruption, coarse)
            if discrete:
                decoded = latent + (quantized.latent - latent).detach()
            elif residual_corruption is not None:
                decoded = self._as_sampled(latent, quantized, code_corruption, residual_corruption)
            else:
                decoded = latent
        loss = self.quantizer.loss(quantized, latent, self.config.commitment_weight)
        return TrainingPass(decoded, loss, quantized)

    @torch.no_grad()
    def _as_sampled(
        self,
        latent: Tensor,
        quantized: QuantizedLatent,
        code_corruption: Corruption | None,
        residual_corruption: Corruption,
    ) -> Tensor:
        """Return the latent (B, D, h, w) with errors in codes and residual, such as a transformer makes."""
        missing, codes, final = quantized.last_residual, quantized.indices[-1], Grid(*latent.shape[-2:])
        if code_corruption is not None:
            codes = code_corruption.codes(codes, self.quantizer.distances(next_scale_input(missing, final)))
        discrete = to_map(self.quantizer.codebook(codes), final)
        return latent - missing + discrete + residual_corruption.residual(missing - discrete)


def _teacher_forcing_input(totals: Iterable[Tensor], schedule: ScaleSchedule) -> Tensor:
    """See `TokenMaps`. totals: the running sums (B, D, h, w) after each scale but the last."""
    inputs = zip(totals, schedule.grids[1:], strict=True)
    return torch.cat([next_scale_input(total, grid) for total, grid in inputs], dim=1)
