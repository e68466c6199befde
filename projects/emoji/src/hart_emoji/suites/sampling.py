"""Suite `sampling`: the paper's sampling ablations, which change one of the model's own settings at a time.

Prompts name concept and style of held-out renderings (`hart_emoji.suites.prompts.unseen_styles`), and images are
compared with these; all variants have the same prompts and seeds. Finished measurements are kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from hart import HartConfig, HartError, HartPipeline, SamplingConfig
from hart.evaluation import (
    DEFAULT_FEATURES,
    LEAST_IMAGES,
    Cache,
    Context,
    Features,
    Figure,
    GeneratedImages,
    Result,
    Suite,
    all_figures,
    bootstrap_mean,
    counted,
    extractor_facts,
    few_images_warning,
    open_extractor,
    quiet_prompts,
    records,
)
from hart_emoji.suites.agreement import Judge
from hart_emoji.suites.emoji_set import BATCH, EmojiOptions, Opened, features_of, looks
from hart_emoji.suites.prompts import unseen_styles

OWN = "own"
DIFFUSION_STEPS = (1, 2, 4, 8, 16)
GUIDANCE_SCALES = (0.0, 1.0, 1.5, 2.5, 4.0, 6.0)
TOP_KS = (50, 200, 600, None)
TOP_PS = (0.5, 0.7, 0.9, None)
GREEDY_SCALES = (0, 1, 2)
TIMED = 10
"""Images of each variant that are generated again for timing."""


class AblationOptions(EmojiOptions, kw_only=True):
    """The seed is used for the first image, the choice of prompts and the intervals."""

    limit: Annotated[int, Field(ge=LEAST_IMAGES, description="Maximum number of images of each variant.")] = 300
    only: Annotated[
        tuple[str, ...], Field(description="Name of a variant to measure; may be repeated. All by default.")
    ] = ()


def variants(config: HartConfig, own: SamplingConfig) -> dict[str, SamplingConfig]:
    """Return name -> settings: `own` first, then variants that differ from it in one setting."""
    changed: dict[str, tuple[object, SamplingConfig]] = {}
    if config.hybrid:
        steps = config.diffusion_steps(own)
        changed["discrete-only"] = own.discrete_only, own.replace(discrete_only=True)
        changed |= {f"diffusion-steps-{n}": (steps == n, own.replace(diffusion_steps=n)) for n in DIFFUSION_STEPS}
    others = [(f"guidance-{g:g}", own.replace(guidance_scale=g)) for g in GUIDANCE_SCALES]
    others += [(f"top-k-{_or_all(k)}", own.replace(top_k=k)) for k in TOP_KS]
    others += [(f"top-p-{_or_all(p)}", own.replace(top_p=p)) for p in TOP_PS]
    others += [
        ("gumbel-smoothing", own.replace(gumbel_smoothing=True)),
        ("no-gumbel-smoothing", own.replace(gumbel_smoothing=False)),
    ]
    others += [(f"greedy-scales-{n}", own.replace(greedy_scales=n)) for n in GREEDY_SCALES]
    changed |= {name: (settings == own, settings) for name, settings in others}
    return {OWN: own, **{name: settings for name, (same, settings) in changed.items() if not same}}


def run(context: Context[AblationOptions]) -> Result:
    """Return a row for each variant, measured once and kept: FID, KID, precision, recall, agreement and the seconds
    per image.

    Raises `HartError` for an unknown variant or too few held-out images.
    """
    options, progress = context.options, context.progress
    opened = Opened.by(context)
    pipe, emoji, judging = opened.pipe, opened.emoji, opened.extractor
    own = options.sampling(pipe)
    known = variants(pipe.config, own)
    if unknown := sorted(set(options.only) - set(known)):
        raise HartError(f"no variant {unknown[0]!r} of the model's own settings: it has {', '.join(known)}")
    group = unseen_styles(emoji, options.limit, options.seed, left_out=frozenset())
    if len(group.prompts) < LEAST_IMAGES:
        raise HartError(
            f"{counted(len(group.prompts), 'prompt')} of held-out images: at least {LEAST_IMAGES} are needed"
        )
    everything = unseen_styles(emoji, len(emoji), options.seed, left_out=frozenset())
    progress(0, None, "features of the held-out images")
    comparing = open_extractor(DEFAULT_FEATURES, pipe.device)
    real = Features(features_of(emoji.pixels(everything.renderings), comparing))
    judge = Judge(emoji, emoji.features(judging, progress), judging.name)

    def measured(name: str) -> dict[str, Figure]:
        sampling, generator = known[name], context.generator()
        generated = GeneratedImages(pipe, group.texts, sampling, options.seed, context.out / name)

        def figures() -> dict[str, Figure]:
            generated.generate(options.batch_size, lambda done, total, what: progress(done, total, f"{name}: {what}"))
            compared = Features(generated.features(comparing, BATCH, progress).pooled)
            found = all_figures(real, compared, comparing.name, generator, options.resamples)
            seen = looks(generated.pixels(range(len(generated))), judging)
            for column, values in judge.verdicts(seen, group).items():
                found[column] = bootstrap_mean(values, generator, options.resamples)
            found["seconds an image"] = Figure(_seconds(pipe, group.texts[:TIMED], sampling, options.seed))
            return found

        return kept.get(kept.key(generated.plan, asked, real.pooled, judge.bank), figures)

    asked = [asdict(prompt) for prompt in group.prompts]
    facts = {"features": [judging.weights, comparing.weights], "resamples": options.resamples}
    kept: Cache[dict[str, Figure]] = context.cache(records(dict[str, Figure]), facts)
    return Result(
        title=f"{counted(len(group.prompts), 'image')} of {pipe.image_size} px against {len(real):,}",
        figures={name: measured(name) for name in known if not options.only or name in options.only},
        settings={"size": pipe.image_size, "weights": pipe.fingerprints(), "own": own.to_dict()},
        counts={"generated of each": len(group.prompts), "references": len(real)},
        extractor=extractor_facts(comparing),
        notes=few_images_warning("FID", min(len(real), len(group.prompts))),
    )


def _seconds(pipe: HartPipeline, prompts: Sequence[str], sampling: SamplingConfig, seed: int) -> float:
    """Return the median time from text to pixels over images generated one at a time."""
    seconds = []
    for i, prompt in enumerate(prompts):
        start = time.perf_counter()
        with quiet_prompts():
            pipe(prompt, seed=seed + i, sampling=sampling)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _or_all(value: float | None) -> str:
    return "all" if value is None else f"{value:g}"


SUITE = Suite(
    "sampling",
    "The model's own sampling with one setting changed at a time. Finished measurements are kept.",
    AblationOptions,
    run,
    "hart-emoji",
)
