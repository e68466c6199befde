"""Suite `tokenizer`: what an image loses in the tokenizer, discrete compared with hybrid.

Everything is measured on 8-bit images, as they would be stored. `hybrid` is codes plus the exact residual, which is the
encoder's continuous latent: what hybrid tokens would reach if the residual were sampled exactly (paper, Table 1).

Shapes: B batch, N images, H W image, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.config import TokenizerConfig
from hart.data.transforms import ImageTransform, to_signed, unit_to_pil
from hart.errors import HartError
from hart.evaluation.cache import TENSORS
from hart.evaluation.image_sets import ImageSet
from hart.evaluation.metrics.distances import SSIM_WINDOW, frechet_figure, kernel_distance, ssim
from hart.evaluation.metrics.features import FeatureExtractor, open_extractor
from hart.evaluation.metrics.figures import Figure, bootstrap_mean, few_images_warning
from hart.evaluation.report import Result, extractor_facts, published_tables
from hart.evaluation.suites.base import LEAST_IMAGES, Context
from hart.evaluation.suites.core import TokenizerOptions
from hart.generation.contact_sheet import contact_sheet
from hart.generation.outputs import psnr
from hart.grids import ScaleSchedule
from hart.networks.perceptual import PerceptualDistance, perceptual_loss
from hart.networks.pretrained import choices
from hart.sizes import ImageSize, parsed_size, schedule_of_size
from hart.strict import counted
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

KINDS = ("discrete", "hybrid")
INPUT = "input"
PSNR, SSIM = "PSNR, dB", "SSIM"
POOLED, SPATIAL = "pooled", "spatial"
IDENTICAL_PSNR = 100.0
"""PSNR in dB of an identical image, for a finite mean; one value off by one in a 256 px image gives 101 dB."""
DISTANCES = {"lpips": "LPIPS (VGG-16)", "efficientnet_lite0": "distance (efficientnet-lite0)"}
SHEET_FILE, SHEET_IMAGES = "reconstructions.png", 12


def schedule_for(config: TokenizerConfig, size: ImageSize, scales: tuple[int, ...] | None = None) -> ScaleSchedule:
    """Return the scales with which images of `size` are coded.

    `scales` if given, for squares; else those of `hart.sizes.schedule_of_size`. Raises `HartError` if they do not end
    at the latent's size.
    """
    if min(size) < SSIM_WINDOW:
        raise HartError(f"size {size.stored}: give at least {SSIM_WINDOW} px, the window of SSIM")
    own = schedule_of_size(config, size)
    if scales is None:
        return own
    try:
        schedule = ScaleSchedule.square(scales)
    except ValueError as error:
        raise HartError(f"scales: {error}") from None
    if schedule.final != own.final:
        raise HartError(f"scales end at {schedule.final}: images of {size} px have a latent of {own.final}")
    return schedule


def run(context: Context[TokenizerOptions]) -> Result:
    """Measure. Scores and features of every batch are kept: a stopped run continues.

    Raises `HartError` for sets of fewer than four images, or if decoded images are not finite.
    """
    from hart.checkpoint.loading import load_tokenizer

    options, progress, device = context.options, context.progress, context.device
    source = options.source(out=context.out)
    context.note(source.description)
    tokenizer = load_tokenizer(options.model).requires_grad_(False).to(device)
    size = parsed_size(str(tokenizer.config.image_size if options.size is None else options.size))
    schedule = schedule_for(tokenizer.config, size, options.scales)
    transform = ImageTransform((size.width, size.height), fit=options.fit)
    images = ImageSet(source, transform, limit=options.limit, seed=options.seed)
    images.require(LEAST_IMAGES)
    distance = perceptual_loss(options.distance, options.distance_weights).to(device)
    extractor = open_extractor(options.features, device)
    measure = Measure(tokenizer, schedule, device, extractor, distance, DISTANCES[options.distance])
    facts = measure.facts()
    kept = context.cache(TENSORS, facts)
    parts: list[Mapping[str, Tensor]] = []
    groups: list[list[Image.Image]] = []
    labels: list[str] = []
    done = 0
    for pixels, _ in images.batches(options.batch_size):
        progress(done, images.total, f"{counted(done, 'image')} reconstructed")
        values = kept.get(kept.key(pixels), partial(measure, pixels))
        parts.append(values)
        if shown := min(len(pixels), SHEET_IMAGES - len(groups)):
            # decoded again, since images are not kept, and these are few
            versions = (pixels, *reconstruct(tokenizer, pixels.to(device), schedule).values())
            groups += [[unit_to_pil(version[row].float() / 255) for version in versions] for row in range(shown)]
            for row in range(shown):
                decibels = (f"{kind} {values[f'{kind}: {PSNR}'][row]:.1f} dB" for kind in KINDS)
                labels.append(f"input, {', '.join(decibels)}")
        done += len(pixels)
    progress(done, None, "distances and intervals")
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Result(
        title=f"{counted(done, 'image')} of {size.stored} px",
        figures={kind: _figures(measured, kind, measure, context) for kind in KINDS},
        settings={
            "set": source.description,
            "size": size.stored,
            "scales": schedule.listed,
            "weights_sha256": facts["tokenizer"],
        },
        counts={"images": done, "damaged": len(images.damaged)},
        extractor=extractor_facts(extractor),
        notes=few_images_warning("rFID", done),
        published=(published_tables()["tokenizer"],),
        sheets={SHEET_FILE: contact_sheet(groups, labels)},
    )


@dataclass(frozen=True)
class Measure:
    """Scores and features of images and their reconstructions, by "KIND: NAME", one row per image."""

    tokenizer: HybridTokenizer
    schedule: ScaleSchedule
    device: torch.device
    extractor: FeatureExtractor
    distance: PerceptualDistance
    distance_name: str

    def facts(self) -> dict[str, object]:
        """Return what determines the numbers."""
        return {
            "tokenizer": fingerprint(self.tokenizer),
            "config": self.tokenizer.config.to_dict(),  # parts of it affect images, and weights do not show it
            "scales": self.schedule.listed,
            "device": self.device.type,
            "features": extractor_facts(self.extractor) | {"choices": choices(self.extractor)},
            "distance": [self.distance_name, fingerprint(self.distance)],
        }

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Measure images (B, 3, H, W) uint8."""
        original = pixels.to(self.device)
        values: dict[str, Tensor] = {}
        for kind, image in {INPUT: original, **reconstruct(self.tokenizer, original, self.schedule)}.items():
            features = self.extractor(image)
            found = {POOLED: features.pooled, SPATIAL: features.spatial}
            if kind != INPUT:
                found[PSNR] = psnr(image, original, 255).nan_to_num(posinf=IDENTICAL_PSNR)
                found[SSIM] = ssim(image, original)
                found[self.distance_name] = self.distance.distances(to_signed(image), to_signed(original))
            values |= {f"{kind}: {name}": value.cpu() for name, value in found.items() if value is not None}
        return values


@torch.inference_mode()
def reconstruct(tokenizer: HybridTokenizer, pixels: Tensor, schedule: ScaleSchedule) -> dict[str, Tensor]:
    """Return each kind of reconstruction of images (B, 3, H, W), as 8-bit images."""
    decoded = {}
    for kind, image in zip(KINDS, tokenizer.reconstruct(to_signed(pixels), schedule), strict=True):
        if not bool(image.isfinite().all()):
            raise HartError(
                "a reconstruction is not finite: the tokenizer's weights are damaged or its training failed"
            )
        decoded[kind] = ((image + 1) * 127.5).round().to(torch.uint8)
    return decoded


def _figures(
    measured: Mapping[str, Tensor], kind: str, measure: Measure, context: Context[TokenizerOptions]
) -> dict[str, Figure]:
    # one generator per kind: both see the same resamples
    generator, resamples, extractor = context.generator(), context.options.resamples, measure.extractor.name

    def compared(features: str) -> tuple[Tensor, Tensor]:
        return measured[f"{INPUT}: {features}"], measured[f"{kind}: {features}"]

    scores = (PSNR, SSIM, measure.distance_name)
    figures = {name: bootstrap_mean(measured[f"{kind}: {name}"], generator, resamples) for name in scores}
    figures[f"rFID ({extractor})"] = frechet_figure(*compared(POOLED), generator, resamples, paired=True)
    figures[f"rKID ({extractor})"] = kernel_distance(*compared(POOLED), generator)
    if f"{INPUT}: {SPATIAL}" in measured:
        figures[f"spatial rFID ({extractor})"] = frechet_figure(*compared(SPATIAL), generator, resamples, paired=True)
    return figures
