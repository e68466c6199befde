"""Recompute every quantity that a golden file records, and compare (`hart verify`).

A golden case is a checkpoint with `case.json` (settings) and `golden.safetensors` (numbers of the published
reference) beside it. Everything is computed by the modules that generation and training use; the random
parts are replaced by the recorded or constant numbers that the reference run was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.checkpoint.loading import LoadedModel, load_model
from hart.checkpoint.storage import CheckpointError, read_safetensors
from hart.config import SamplingConfig
from hart.generation.next_scale import NextScaleGenerator, Trace
from hart.types import ClassContext, Context, TextContext

GOLDEN_FILE = "golden.safetensors"
CASE_FILE = "case.json"

# What the reference run was given; everything else in a golden file is recomputed.
INPUTS = frozenset(
    {
        "tokenizer.image",
        "context.embeddings",
        "context.mask",
        "labels",
        "diffusion.timesteps",
        "diffusion.noise",
        "generate.start_noise",
    }
)

TOLERANCE = 1e-4
"""Largest difference allowed, relative to max(1, largest |golden value|)."""

# Guidance and clipping amplify rounding at single tokens of these two: mean and largest absolute difference.
AMPLIFIED = frozenset({"generate.latent", "generate.image"})
AMPLIFIED_MEAN, AMPLIFIED_MAX = 1e-4, 1e-2


@dataclass(frozen=True)
class Comparison:
    """One recorded quantity: its largest absolute difference, the tolerance it is held to, and the verdict."""

    name: str
    difference: float
    tolerance: float
    passed: bool
    remark: str = ""


class RecordedDraws:
    """Generation with its random parts switched off (see `hart.generation.draws.Draws`)."""

    def __init__(self, start_noise: Tensor | None, pictures: int) -> None:
        self.noise = start_noise
        self.pictures = pictures

    def codes(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)

    def gumbel(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits)

    def start_noise(self, tokens: int, channels: int) -> Tensor:
        if self.noise is None or len(self.noise) < self.pictures * tokens:
            raise CheckpointError(f"{GOLDEN_FILE}: generate.start_noise has too few rows for this model")
        rows, self.noise = self.noise.split([self.pictures * tokens, len(self.noise) - self.pictures * tokens])
        return rows.view(self.pictures, tokens, channels)

    def step_noise(self, tokens: int, channels: int) -> Tensor:
        return torch.zeros(self.pictures, tokens, channels)

    def order(self, tokens: int) -> Tensor:
        return torch.arange(tokens).expand(self.pictures, tokens)


def verify(folder: Path) -> list[Comparison]:
    """Compare every key of the golden file in `folder`; a key without a computation is a failure."""
    golden = read_safetensors(folder / GOLDEN_FILE)
    try:
        case = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CASE_FILE}: cannot be read: {error}") from None
    computed = recompute(load_model(folder), golden, case)
    return [_compare(name, golden[name], computed.get(name)) for name in sorted(golden) if name not in INPUTS]


@torch.no_grad()
def recompute(model: LoadedModel, golden: Mapping[str, Tensor], case: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every quantity this project has a computation for, from the golden file's inputs."""
    missing = {"tokenizer.image", "labels" if model.config.transformer.classes else "context.mask"} - set(golden)
    if missing:
        raise CheckpointError(f"{GOLDEN_FILE}: the input(s) {', '.join(sorted(missing))} are missing")
    context = _context(model, golden)
    results = _tokenizer(model, golden["tokenizer.image"])
    if isinstance(context, TextContext):
        results["context.position_ids"] = context.position_ids
    results |= _teacher(model, context, golden)
    results |= _generate(model, context, golden, case)
    return results


def _context(model: LoadedModel, golden: Mapping[str, Tensor]) -> Context:
    classes = model.config.transformer.classes
    if classes is not None:
        return ClassContext(golden["labels"], classes.num_classes)
    return TextContext(golden["context.embeddings"], golden["context.mask"].bool())


def _tokenizer(model: LoadedModel, image: Tensor) -> dict[str, Tensor]:
    tokenizer = model.tokenizer
    latent = tokenizer.encode(image)
    quantized, maps = tokenizer.quantize(latent), tokenizer.token_maps(latent)
    discrete = tokenizer.reconstruct(image, discrete=True)
    results = {f"tokenizer.indices.{k}": index for k, index in enumerate(maps.indices)}
    results |= {
        "tokenizer.latent": latent,
        "tokenizer.discrete_latent": quantized.latent,
        "tokenizer.teacher_forcing_input": maps.teacher_forcing_input,
        "tokenizer.last_scale_continuous": maps.last_scale_continuous,
        "tokenizer.discrete_reconstruction": discrete,
        "tokenizer.reconstruction": discrete,
        "tokenizer.continuous_reconstruction": tokenizer.reconstruct(image, discrete=False),
    }
    for kind in ("discrete", "continuous"):
        training = tokenizer.training_pass(image, discrete=kind == "discrete")
        results[f"tokenizer.train.{kind}.latent"] = training.latent
        results[f"tokenizer.train.{kind}.vq_loss"] = training.quantizer_loss.view(1)
    return results


def _teacher(model: LoadedModel, context: Context, golden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hart, tokenizer = model.hart, model.tokenizer
    maps = tokenizer.token_maps(tokenizer.encode(golden["tokenizer.image"]))
    output = hart.transformer(context, maps.teacher_forcing_input)
    logits = hart.transformer.logits(output.hidden, output.conditioning)
    results = {"teacher.logits": logits}
    if hart.residual is None:
        return results
    codes = logits[:, -output.segments[-1] :].argmax(dim=-1)
    embeddings = tokenizer.quantizer.codebook(codes)
    condition = hart.residual_condition(output.last_scale, embeddings).flatten(0, 1)
    target = (maps.last_scale_continuous - embeddings).flatten(0, 1)
    results["teacher.residual_condition"] = condition.view_as(output.last_scale)
    results["teacher.residual_target"] = target.view_as(embeddings)
    if "diffusion.timesteps" in golden and "diffusion.noise" in golden:
        timesteps, noise = golden["diffusion.timesteps"], golden["diffusion.noise"]
        head = hart.residual
        loss = head.loss(condition, target, timesteps, noise)
        noised = head.process.noised(target / head.config.tokens_scale, timesteps, noise)
        results |= {
            "diffusion.loss": loss.total,
            "diffusion.mse": loss.mse,
            "diffusion.vb": loss.variational_bound,
            "diffusion.output": head.denoiser(noised, timesteps, head.denoiser.embed_condition(condition)),
        }
    return results


def _generate(
    model: LoadedModel, context: Context, golden: Mapping[str, Tensor], case: Mapping[str, Any]
) -> dict[str, Tensor]:
    settings = SamplingConfig(
        guidance_scale=float(case["guidance_scale"]),
        top_k=None,
        smooth=case["smooth"],
        rounds=case.get("maskgit_iterations", 1),
    )
    trace = Trace()
    draws = RecordedDraws(golden.get("generate.start_noise"), len(context))
    generator = NextScaleGenerator(model.hart, model.tokenizer.quantizer, settings, draws, trace=trace)
    latent = generator(context)
    results = {"generate.latent": latent, "generate.image": (model.tokenizer.decode(latent) + 1) / 2}
    results |= {f"generate.logits.{i}": logits for i, logits in enumerate(trace.logits)}
    return results | {f"generate.indices.{i}": codes for i, codes in enumerate(trace.indices)}


def _compare(name: str, golden: Tensor, computed: Tensor | None) -> Comparison:
    if computed is None:
        return Comparison(name, float("nan"), 0.0, False, "no computation for this key")
    if computed.shape != golden.shape:
        remark = f"shape {tuple(computed.shape)}, recorded {tuple(golden.shape)}"
        return Comparison(name, float("nan"), 0.0, False, remark)
    difference = (computed.double() - golden.double()).abs()
    largest = float(difference.max())
    if not golden.is_floating_point():
        wrong = int((difference > 0).sum())
        return Comparison(name, largest, 0.0, wrong == 0, f"{wrong} of {golden.numel()} differ" if wrong else "")
    if name in AMPLIFIED:
        mean = float(difference.mean())
        passed = largest <= AMPLIFIED_MAX and mean <= AMPLIFIED_MEAN
        return Comparison(name, largest, AMPLIFIED_MAX, passed, f"mean {mean:.1e}, at most {AMPLIFIED_MEAN:.0e}")
    tolerance = TOLERANCE * max(1.0, float(golden.abs().max()))
    return Comparison(name, largest, tolerance, largest <= tolerance)
