"""Suite `sampling`: the paper's ablations of sampling, one setting changed at a time from the model's own.

The prompts tell concept and style of held-out renderings (`hart_emoji.suites.prompts.unseen_styles`), the pictures
are compared with these renderings; prompts and seeds are those of every variant. A variant that was measured is kept in
its folder and not measured again.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from hart.config import HartConfig, SamplingConfig
from hart.errors import HartError
from hart.evaluation.comparison import LEAST_PICTURES, all_figures
from hart.evaluation.drawing import DrawnPictures, quiet_prompts
from hart.evaluation.features import FeatureExtractor, Features
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.statistics import RESAMPLES, Figure, bootstrap_mean, few_pictures_warning
from hart.files import atomic_write, read_json
from hart.pipeline import HartPipeline
from hart_emoji.suites.agreement import Judge
from hart_emoji.suites.emoji_set import BATCH, EmojiSet, features_of, looks
from hart_emoji.suites.prompts import PromptGroup, unseen_styles

OWN = "own"
DIFFUSION_STEPS = (1, 2, 4, 8, 16)
GUIDANCE_SCALES = (0.0, 1.0, 1.5, 2.5, 4.0, 6.0)
TOP_KS = (50, 200, 600, None)
TOP_PS = (0.5, 0.7, 0.9, None)
KEPT_FILE = "figures.json"
TIMED = 10
"""Pictures of each variant that are drawn once more for the time."""


@dataclass(frozen=True)
class SamplingOptions:
    """limit: prompts. only: names of variants to measure, all by default. seed: of the first picture, of the choice of
    prompts and of the intervals."""

    limit: int = 300
    only: tuple[str, ...] = ()
    seed: int = 0
    draw_batch: int = 1
    resamples: int = RESAMPLES


def variants(config: HartConfig) -> dict[str, SamplingConfig]:
    """Name -> settings: the model's own first, then those in which one differs; what equals its own is left out."""
    own = config.sampling
    steps = None if config.diffusion is None else own.diffusion_steps or config.diffusion.sampling_steps
    changed: dict[str, tuple[object, SamplingConfig]] = {}
    if config.hybrid:
        changed["discrete-only"] = own.discrete_only, own.replace(discrete_only=True)
        changed |= {f"diffusion-steps-{n}": (steps == n, own.replace(diffusion_steps=n)) for n in DIFFUSION_STEPS}
    others = [(f"guidance-{g:g}", own.replace(guidance_scale=g)) for g in GUIDANCE_SCALES]
    others += [(f"top-k-{_or_all(k)}", own.replace(top_k=k)) for k in TOP_KS]
    others += [(f"top-p-{_or_all(p)}", own.replace(top_p=p)) for p in TOP_PS]
    others += [("smooth", own.replace(smooth=True)), ("no-smooth", own.replace(smooth=False))]
    changed |= {name: (settings == own, settings) for name, settings in others}
    return {OWN: own, **{name: settings for name, (same, settings) in changed.items() if not same}}


def evaluate_sampling(
    pipe: HartPipeline,
    emoji: EmojiSet,
    judging: FeatureExtractor,
    comparing: FeatureExtractor,
    folder: Path,
    options: SamplingOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """A row for each variant: FID, KID, precision, recall, agreement, and the seconds that a picture takes.

    judging: extractor for agreement; comparing: for the distances. Raises `HartError` for an unknown variant or too few
    held-out pictures.
    """
    known = variants(pipe.config)
    if unknown := sorted(set(options.only) - set(known)):
        raise HartError(f"no variant {unknown[0]!r}: this model has {', '.join(known)}")
    group = unseen_styles(emoji, options.limit, options.seed, left_out=frozenset())
    if len(group.prompts) < LEAST_PICTURES:
        raise HartError(f"{len(group.prompts)} prompts of held-out pictures: at least {LEAST_PICTURES} are needed")
    everything = unseen_styles(emoji, len(emoji), options.seed, left_out=frozenset())
    progress(0, None, "features of the held-out pictures")
    rows = [prompt.rendering for prompt in everything.prompts if prompt.rendering is not None]
    real = Features(features_of(emoji.pixels(rows), comparing))
    judge = Judge(emoji, emoji.features(judging, progress), judging.name)
    measure = _Measure(pipe, group, real, judge, judging, comparing, folder, options, progress)
    figures = {name: measure(name, known[name]) for name in known if not options.only or name in options.only}
    warning = few_pictures_warning("FID", min(len(real), len(group.prompts)))
    return Result(
        suite="sampling",
        title=f"{pictures_text(len(group.prompts))} of {pipe.image_size} px against {len(real):,}",
        figures=figures,
        settings={
            **settings,
            "weights": pipe.fingerprints(),
            "own": pipe.config.sampling.to_dict(),
            "seed": options.seed,
            "resamples": options.resamples,
        },
        counts={"drawn of each": len(group.prompts), "references": len(real), "damaged": emoji.damaged},
        extractor=extractor_facts(comparing),
        notes=(warning,) if warning else (),
    )


@dataclass(frozen=True)
class _Measure:
    """Everything that the variants share."""

    pipe: HartPipeline
    group: PromptGroup
    real: Features
    judge: Judge
    judging: FeatureExtractor
    comparing: FeatureExtractor
    folder: Path
    options: SamplingOptions
    progress: Progress

    def __call__(self, name: str, sampling: SamplingConfig) -> dict[str, Figure]:
        """Figures of one variant, from its folder where they are there."""
        options = self.options
        drawn = DrawnPictures(self.pipe, self.group.texts, sampling, options.seed, self.folder / name)
        file = self.folder / name / KEPT_FILE
        measured_with = {
            "features": [self.judging.weights, self.comparing.weights],
            "references": len(self.real),
            "resamples": options.resamples,
        }
        if (kept := _read_figures(file, measured_with)) is not None:
            return kept
        drawn.draw(options.draw_batch, lambda done, total, what: self.progress(done, total, f"{name}: {what}"))
        generator = torch.Generator().manual_seed(options.seed)
        compared = Features(drawn.features(self.comparing, BATCH, self.progress).pooled)
        figures = all_figures(self.real, compared, self.comparing.name, generator, options.resamples)
        seen = looks(drawn.pixels(range(len(drawn))), self.judging)
        for column, values in self.judge.verdicts(seen, self.group).items():
            figures[column] = bootstrap_mean(values, generator, options.resamples)
        figures["seconds a picture"] = Figure(_seconds(self.pipe, self.group.texts[:TIMED], sampling, options.seed))
        content = {"measured_with": measured_with, "figures": {column: asdict(f) for column, f in figures.items()}}
        atomic_write(file, lambda stream: stream.write(json.dumps(content, indent=1).encode()))
        return figures


def _read_figures(file: Path, measured_with: Mapping[str, Any]) -> dict[str, Figure] | None:
    """What was kept of a variant; None where nothing was, or measured otherwise. Raises `HartError` for other files."""
    if not file.exists():
        return None
    kept = read_json(file)
    if kept.get("measured_with") != measured_with:
        return None
    figures = kept.get("figures")
    if not isinstance(figures, dict) or not all(map(_is_figure, figures.values())):
        raise HartError(f"{file}: holds no figures: delete it, and they are measured again")
    return {column: Figure(**values) for column, values in figures.items()}


def _is_figure(values: Any) -> bool:
    names = {f.name for f in fields(Figure)}
    return (
        isinstance(values, dict)
        and "value" in values
        and values.keys() <= names
        and all(
            type(value) in (int, float) and math.isfinite(value)
            for name, value in values.items()
            if name == "value" or value is not None
        )
    )


def _seconds(pipe: HartPipeline, prompts: Sequence[str], sampling: SamplingConfig, seed: int) -> float:
    """Median over pictures drawn one at a time, from words to pixels."""
    seconds = []
    for i, prompt in enumerate(prompts):
        start = time.perf_counter()
        with quiet_prompts():
            pipe(prompt, seed=seed + i, sampling=sampling)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _or_all(value: float | None) -> str:
    return "all" if value is None else f"{value:g}"
