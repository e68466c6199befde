"""Recomputes every quantity that a golden file records, and compares (`hart verify`).

A golden case is a checkpoint with `case.json` (settings) and `golden.safetensors` (numbers from the published
reference) beside it. The modules of generation and training compute everything; random numbers are replaced by the
recorded or constant ones of the reference run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hart.checkpoint.folders import CheckpointError
from hart.checkpoint.loading import LoadedModel, load_model
from hart.checkpoint.storage import read_safetensors
from hart.config import ConfigError, SamplingConfig
from hart.devices import exact_float32, is_out_of_memory
from hart.files import read_json, readable_folder
from hart.generation.guidance_and_sampling import Candidates
from hart.generation.next_scale import NextScaleGenerator, TokenStep
from hart.strict import reason
from hart.types import ClassContext, Context, TextContext

CPU = torch.device("cpu")
GOLDEN_FILE = "golden.safetensors"
CASE_FILE = "case.json"
CASE_KEYS = {"guidance_scale": "guidance_scale", "gumbel_smoothing": "smooth", "maskgit_steps": "maskgit_iterations"}
"""Maps sampling settings to their names in a case."""
# fmt: off
INPUTS = (
    "tokenizer.image", "context.embeddings", "context.mask", "labels", "diffusion.timesteps", "diffusion.noise",
    "generate.start_noise",
)
# fmt: on
"""The inputs of the reference run; everything else in a golden file is recomputed."""

TOLERANCE = 1e-4
"""Largest difference allowed, relative to max(1, largest |golden value|)."""

# In these two, guidance and clipping amplify rounding at single tokens: limits on the mean and the largest difference.
AMPLIFIED = frozenset({"generate.latent", "generate.image"})
AMPLIFIED_MEAN, AMPLIFIED_MAX = 3e-4, 1e-2


@dataclass(frozen=True)
class Comparison:
    """One recorded quantity: its largest absolute difference, the tolerance for it, and the verdict."""

    name: str
    difference: float
    tolerance: float
    passed: bool
    remark: str = ""


@dataclass
class RecordedNoise:
    """Noise without randomness (see `hart.generation.noise.NoiseSource`). noise: starting points of the diffusions."""

    noise: Tensor | None
    images: int
    device: torch.device

    def gumbel(self, k: int, positions: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
        none = torch.zeros_like(candidates.logits)
        return none, none

    def residual(self, positions: Tensor, channels: int, steps: int) -> Tensor:
        assert self.noise is not None, "the inputs of a hybrid model hold enough of it"
        tokens = positions.shape[1]
        start, self.noise = self.noise.split([self.images * tokens, len(self.noise) - self.images * tokens])
        return torch.cat(
            [start.view(1, self.images, tokens, channels), start.new_zeros(steps - 1, self.images, tokens, channels)]
        )

    def order(self, tokens: int) -> Tensor:
        return torch.arange(tokens, device=self.device).expand(self.images, tokens)

    def of(self, rows: Sequence[int]) -> RecordedNoise:
        raise NotImplementedError("numbers are recorded for whole batches")


def verify(folder: Path, *, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> list[Comparison]:
    """Compare every key of the golden file in `folder`; a key that is not recomputed is a failure.

    device: where to compute. dtype: of transformer, residual diffusion and decoder, as in `HartPipeline`; tolerances
        are for float32, which is computed without TF32.
    Raises `HartError` if the model, the case or its inputs cannot be read or do not fit together.
    """
    if not (readable_folder(folder) / GOLDEN_FILE).exists():
        raise CheckpointError(
            f"{folder}: has no {GOLDEN_FILE}: give a checkpoint with numbers of the reference beside it"
        )
    golden = read_safetensors(folder / GOLDEN_FILE)
    settings = read_case(folder / CASE_FILE)
    model = load_model(folder)
    most = model.config.transformer.schedule.token_counts[-1] if model.config.hybrid else 1
    if settings.maskgit_steps > most:
        raise CheckpointError(f"{folder / CASE_FILE}: maskgit_iterations must be at most {most} for this model")
    inputs = {name: golden[name].to(device) for name in INPUTS if name in golden}
    model.hart.to(device, dtype)
    model.tokenizer.to(device)
    for part in (model.tokenizer.decoder, model.tokenizer.post_quant_conv):
        part.to(dtype)
    try:
        with exact_float32():
            computed = recompute(model, inputs, settings)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{folder / GOLDEN_FILE}: inputs do not fit the model ({reason(error)})") from None
    recorded = [name for name in sorted(golden) if name not in inputs]
    if not recorded:
        raise CheckpointError(f"{folder / GOLDEN_FILE}: holds inputs only: there is nothing to compare")
    return [_compare(name, golden[name], computed.get(name)) for name in recorded]


def read_case(path: Path) -> SamplingConfig:
    """Return the sampling that a golden case was generated with. Raises `HartError` naming the file and the key."""
    case = {"maskgit_iterations": 1} | read_json(path)
    if missing := [name for name in CASE_KEYS.values() if name not in case]:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}, with which the golden numbers were generated")
    settings = {ours: case[theirs] for ours, theirs in CASE_KEYS.items()}
    try:
        return SamplingConfig.from_dict({"top_k": None, **settings}, called=CASE_KEYS.__getitem__)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


@torch.no_grad()
def recompute(model: LoadedModel, inputs: Mapping[str, Tensor], settings: SamplingConfig) -> dict[str, Tensor]:
    """Return every quantity that this project computes from the golden file's inputs."""
    context: Context
    if (classes := model.config.transformer.classes) is not None:
        context = ClassContext(inputs["labels"], classes.num_classes)
    else:
        context = TextContext(inputs["context.embeddings"], inputs["context.mask"].bool())
    results = _tokenizer(model, inputs["tokenizer.image"])
    if isinstance(context, TextContext):
        results["context.position_ids"] = context.position_ids
    results |= _teacher(model, context, inputs)
    results |= _generate(model, context, inputs, settings)
    return results


def _tokenizer(model: LoadedModel, image: Tensor) -> dict[str, Tensor]:
    tokenizer = model.tokenizer
    latent, coarse = tokenizer.encode(image), tokenizer.coarse_codes(image)
    quantized, maps = tokenizer.quantize(latent, coarse=coarse), tokenizer.token_maps(latent, coarse=coarse)
    discrete, continuous = tokenizer.reconstruct(image)
    results = {f"tokenizer.indices.{k}": index for k, index in enumerate(maps.indices)}
    results |= {
        "tokenizer.latent": latent,
        "tokenizer.discrete_latent": quantized.latent,
        "tokenizer.teacher_forcing_input": maps.teacher_forcing_input,
        "tokenizer.last_scale_continuous": maps.last_scale_continuous,
        "tokenizer.discrete_reconstruction": discrete,
        "tokenizer.reconstruction": discrete,
        "tokenizer.continuous_reconstruction": continuous,
    }
    for kind in ("discrete", "continuous"):
        training = tokenizer.training_pass(image, discrete=kind == "discrete")
        results[f"tokenizer.train.{kind}.latent"] = training.latent
        results[f"tokenizer.train.{kind}.vq_loss"] = training.quantizer_loss.view(1)
    return results


def _teacher(model: LoadedModel, context: Context, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hart, tokenizer = model.hart, model.tokenizer
    maps = tokenizer.token_maps_of_image(inputs["tokenizer.image"])
    output = hart.transformer(context, maps.teacher_forcing_input)
    logits = hart.transformer.logits(output.hidden, output.conditioning)
    head = hart.residual
    if head is None:
        return {"teacher.logits": logits}
    embeddings = tokenizer.quantizer.codebook(logits[:, -output.segments[-1] :].argmax(dim=-1))
    condition = hart.residual_condition(output.last_scale, embeddings)
    target = maps.last_scale_continuous - embeddings
    timesteps, noise = inputs["diffusion.timesteps"], inputs["diffusion.noise"]
    once = target.unsqueeze(1).shape  # every token is noised once
    loss = head.loss(condition, target, timesteps.view(once[:3]), noise.view(once))
    noised = head.process.noised(target.flatten(0, 1) / head.config.tokens_scale, timesteps, noise)
    return {
        "teacher.logits": logits,
        "teacher.residual_condition": condition,
        "teacher.residual_target": target,
        "diffusion.loss": loss.total,
        "diffusion.mse": loss.mse,
        "diffusion.vb": loss.variational_bound,
        "diffusion.output": head.denoiser(noised, timesteps, head.denoiser.embed_condition(condition.flatten(0, 1))),
    }


def _generate(
    model: LoadedModel, context: Context, inputs: Mapping[str, Tensor], settings: SamplingConfig
) -> dict[str, Tensor]:
    start = None if model.config.diffusion is None else inputs["generate.start_noise"]
    noise = RecordedNoise(start, len(context), model.hart.transformer.word_embed.weight.device)
    steps: list[TokenStep] = []
    for state in NextScaleGenerator(model.hart, model.tokenizer.quantizer, settings, noise).states(context):
        steps += state.steps
    results = {"generate.latent": state.latent, "generate.image": (model.tokenizer.decode(state.latent) + 1) / 2}
    for i, step in enumerate(steps):
        results |= {f"generate.logits.{i}": step.logits, f"generate.indices.{i}": step.codes}
    return results


def _compare(name: str, golden: Tensor, computed: Tensor | None) -> Comparison:
    if computed is None:
        return Comparison(name, float("nan"), 0.0, False, "this key is not recomputed")
    if computed.shape != golden.shape:
        remark = f"shape {tuple(computed.shape)}, recorded {tuple(golden.shape)}"
        return Comparison(name, float("nan"), 0.0, False, remark)
    recorded = golden.double()
    difference = (computed.cpu().double() - recorded).abs()
    largest = float(difference.max())
    if not golden.is_floating_point():
        wrong = int((difference > 0).sum())
        return Comparison(name, largest, 0.0, wrong == 0, f"{wrong} of {golden.numel()} differ" if wrong else "")
    if name in AMPLIFIED:
        mean = float(difference.mean())
        passed = largest <= AMPLIFIED_MAX and mean <= AMPLIFIED_MEAN
        return Comparison(name, largest, AMPLIFIED_MAX, passed, f"mean {mean:.1e}, at most {AMPLIFIED_MEAN:.0e}")
    tolerance = TOLERANCE * max(1.0, float(recorded.abs().max()))
    return Comparison(name, largest, tolerance, largest <= tolerance)
