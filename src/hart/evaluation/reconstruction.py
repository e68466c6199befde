"""Suite `tokenizer`: what a picture loses on its way through the tokenizer, discrete against hybrid.

Everything is measured on 8-bit pictures, as they would be stored. `hybrid` is codes plus the exact rest, which is the
encoder's continuous latent: what hybrid tokens reach when the rest is drawn without error (paper, Table 1).

Shapes: B batch, N pictures, H W image, D width of a feature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_msssim import ssim
from torch import Tensor, nn

from hart.checkpoint.storage import fingerprint
from hart.config import TokenizerConfig
from hart.data.transforms import to_signed, unit_to_pil
from hart.errors import HartError
from hart.evaluation.features import FeatureExtractor, Features
from hart.evaluation.kept_batches import KeptBatches
from hart.evaluation.pictures import Pictures
from hart.evaluation.published import TOKENIZER
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.statistics import (
    RESAMPLES,
    Figure,
    Gaussian,
    bootstrap,
    bootstrap_mean,
    few_pictures_warning,
    frechet_distance,
    kernel_distance,
)
from hart.generation.contact_sheet import contact_sheet
from hart.losses.config import PerceptualKind
from hart.losses.perceptual import EfficientNetLitePerceptualLoss, Lpips, perceptual_loss
from hart.presets import scales_of_size
from hart.scales import ScaleSchedule
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

KINDS = ("discrete", "hybrid")
INPUT = "input"
PSNR, SSIM = "PSNR, dB", "SSIM"
MEASURED_FOLDER = "measured"
SSIM_WINDOW = 11
IDENTICAL_PSNR = 100.0
"""dB that stand for a picture of which nothing is lost; one value off by one in a 256 px picture is 101 dB."""
SHEET_FILE, SHEET_PICTURES = "reconstructions.png", 12


@dataclass(frozen=True)
class PerceptualDistance:
    """A distance of two pictures in a network's features, with the name that its column carries."""

    name: str
    module: Lpips | EfficientNetLitePerceptualLoss

    def __call__(self, image: Tensor, target: Tensor) -> Tensor:
        """(B,) of images (B, 3, H, W) in [-1, 1]."""
        return self.module.distances(image, target)


def perceptual_distance(kind: PerceptualKind, weights: Sequence[Path], device: torch.device) -> PerceptualDistance:
    """The distance called `kind`, see `hart.losses.perceptual.perceptual_loss`. Raises `HartError`."""
    module: nn.Module = perceptual_loss(kind, weights).to(device)
    assert isinstance(module, Lpips | EfficientNetLitePerceptualLoss)
    return PerceptualDistance("LPIPS (VGG-16)" if kind == "lpips" else "distance (efficientnet-lite0)", module)


@dataclass(frozen=True)
class ReconstructionOptions:
    """seed: of bootstrap and subsets. resamples: of each interval; 0 leaves intervals out."""

    batch_size: int = 8
    seed: int = 0
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.resamples < 0:
            raise HartError(
                f"batch_size is {self.batch_size} and resamples {self.resamples}: give at least 1, and 0 or more"
            )


def schedule_for(config: TokenizerConfig, size: int, scales: tuple[int, ...] | None = None) -> ScaleSchedule:
    """The scales with which pictures of `size` pixels are coded.

    `scales` if they are given, else those of `hart.presets.scales_of_size`. Raises `HartError` when they do not end at
    the latent's side.
    """
    if size < SSIM_WINDOW:
        raise HartError(f"size {size}: give at least {SSIM_WINDOW} px, the window of SSIM")
    derived = scales_of_size(config.scales, config.downsampling, size)
    side = derived[-1]
    try:
        schedule = ScaleSchedule(derived if scales is None else scales)
    except ValueError as error:
        raise HartError(f"scales: {error}") from None
    if schedule.final_side != side:
        raise HartError(f"scales end at {schedule.final_side}: pictures of {size} px have a latent of {side} x {side}")
    return schedule


@dataclass
class _Gathered:
    """What one kind of reconstruction has shown so far, batch by batch."""

    scores: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    features: list[Features] = field(default_factory=list)


def evaluate_tokenizer(
    tokenizer: HybridTokenizer,
    pictures: Pictures,
    schedule: ScaleSchedule,
    extractor: FeatureExtractor,
    distance: PerceptualDistance,
    folder: Path,
    options: ReconstructionOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """PSNR, SSIM, perceptual distance, rFID, rKID (and spatial rFID, where the extractor has it) of each kind.

    tokenizer, extractor, distance: on their devices already. Scores and features of every batch are kept in
    `folder`/measured: a stopped run goes on there. settings: what the caller chose (model, data and so on), for the
    report. Raises `HartError` for sets of fewer than four pictures, or decoded pictures that are not finite.
    """
    device = next(tokenizer.parameters()).device
    weights = fingerprint(tokenizer)
    kept = KeptBatches(
        folder / MEASURED_FOLDER,
        {
            "tokenizer": weights,
            "scales": list(schedule),
            "features": extractor_facts(extractor),
            "distance": [distance.name, fingerprint(distance.module)],
            "device": device.type,
        },
        {f"{INPUT}: pooled"} | {f"{kind}: {name}" for kind in KINDS for name in ("pooled", PSNR, SSIM, distance.name)},
    )

    def decoded_of(pixels: Tensor) -> dict[str, Tensor]:
        return reconstruct(tokenizer, pixels.to(device), schedule)

    def measured(pixels: Tensor) -> dict[str, Tensor]:
        values = _named(INPUT, extractor(pixels))
        for kind, image in decoded_of(pixels).items():
            values |= _named(kind, extractor(image))
            for name, scores in _scores(image, pixels.to(device), distance).items():
                values[f"{kind}: {name}"] = scores.cpu()
        return values

    originals: list[Features] = []
    gathered = {kind: _Gathered() for kind in KINDS}
    groups: list[list[Image.Image]] = []
    labels: list[str] = []
    done = 0
    for batch in pictures.batches(options.batch_size):
        progress(done, pictures.total, f"{done} pictures reconstructed")
        values = kept.of(batch.pixels, partial(measured, batch.pixels))
        originals.append(_features(values, INPUT))
        for kind in KINDS:
            for name in (PSNR, SSIM, distance.name):
                gathered[kind].scores[name].append(values[f"{kind}: {name}"])
            gathered[kind].features.append(_features(values, kind))
        if shown := min(len(batch), SHEET_PICTURES - len(groups)):
            # decoded again: pictures are not kept, and these are few
            sides = (batch.pixels, *decoded_of(batch.pixels).values())
            groups += [[unit_to_pil(side[row].float() / 255) for side in sides] for row in range(shown)]
            decibels = {kind: gathered[kind].scores[PSNR][-1] for kind in KINDS}
            labels += [
                f"input, {', '.join(f'{k} {db[row]:.1f} dB' for k, db in decibels.items())}" for row in range(shown)
            ]
        done += len(batch)
    real = Features.cat(originals)
    figures = {}
    for kind in KINDS:
        progress(done, None, f"{kind}: distances and intervals")
        figures[kind] = _figures(real, gathered[kind], extractor.name, options)
    warning = few_pictures_warning("rFID", done)
    return Result(
        suite="tokenizer",
        title=f"{pictures_text(done)} of {schedule.final_side * tokenizer.config.downsampling} px",
        figures=figures,
        settings={
            **settings,
            "weights_sha256": weights,
            "scales": list(schedule),
            "seed": options.seed,
            "resamples": options.resamples,
        },
        counts={"pictures": done, "damaged": len(pictures.damaged)},
        extractor=extractor_facts(extractor),
        notes=(warning,) if warning else (),
        published=(TOKENIZER,),
        sheets={SHEET_FILE: contact_sheet(groups, labels)},
    )


def psnr(image: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (B,) of 8-bit pictures (B, 3, H, W); `IDENTICAL_PSNR` where nothing is lost."""
    error = (image.float() - original.float()).square().mean(dim=(1, 2, 3))
    return torch.where(error == 0, IDENTICAL_PSNR, 10 * torch.log10(255.0**2 / error))


@torch.inference_mode()
def reconstruct(tokenizer: HybridTokenizer, pixels: Tensor, schedule: ScaleSchedule) -> dict[str, Tensor]:
    """Each kind of reconstruction of pictures (B, 3, H, W), as 8-bit pictures."""
    latent = tokenizer.encode(to_signed(pixels))
    latents = {"discrete": tokenizer.quantize(latent, schedule).latent, "hybrid": latent}
    decoded = {}
    for kind in KINDS:
        image = tokenizer.decode(latents[kind])
        if not bool(image.isfinite().all()):
            raise HartError(
                "a reconstruction is not finite: the tokenizer's weights are damaged or its training failed"
            )
        decoded[kind] = ((image + 1) * 127.5).round().to(torch.uint8)
    return decoded


@torch.inference_mode()
def _scores(pixels: Tensor, original: Tensor, distance: PerceptualDistance) -> dict[str, Tensor]:
    """By column: one number a picture (B,)."""
    return {
        PSNR: psnr(pixels, original),
        SSIM: ssim(pixels.float(), original.float(), data_range=255, size_average=False, win_size=SSIM_WINDOW),
        distance.name: distance(to_signed(pixels), to_signed(original)),
    }


def _named(picture: str, features: Features) -> dict[str, Tensor]:
    """Features that distances are of, under names for `KeptBatches`; `_features` reads them."""
    values = {f"{picture}: pooled": features.pooled}
    return values if features.spatial is None else values | {f"{picture}: spatial": features.spatial}


def _features(values: Mapping[str, Tensor], picture: str) -> Features:
    return Features(values[f"{picture}: pooled"], values.get(f"{picture}: spatial"))


def _figures(real: Features, gathered: _Gathered, extractor: str, options: ReconstructionOptions) -> dict[str, Figure]:
    # one generator a kind: both see the same resamples
    generator = torch.Generator().manual_seed(options.seed)
    decoded = Features.cat(gathered.features)
    figures = {
        name: bootstrap_mean(torch.cat(scores), generator, options.resamples)
        for name, scores in gathered.scores.items()
    }
    figures[f"rFID ({extractor})"] = _paired_distance(real.pooled, decoded.pooled, generator, options.resamples)
    figures[f"rKID ({extractor})"] = kernel_distance(real.pooled, decoded.pooled, generator)
    if real.spatial is not None and decoded.spatial is not None:
        figures[f"spatial rFID ({extractor})"] = _paired_distance(
            real.spatial, decoded.spatial, generator, options.resamples
        )
    return figures


def _paired_distance(real: Tensor, decoded: Tensor, generator: torch.Generator, resamples: int) -> Figure:
    """Frechet distance of (N, D) and (N, D) whose rows belong together: they are resampled together."""
    return bootstrap(
        lambda rows: frechet_distance(Gaussian.of(real[rows]), Gaussian.of(decoded[rows])),
        [len(real)],
        generator,
        resamples,
    )
