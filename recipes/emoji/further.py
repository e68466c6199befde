"""Trains the emoji model's transformer on, from several encoded sets at once.

    python recipes/emoji/further.py runs/further --mix data/plain=0.62 data/scenes=0.38 --minutes 90

Beside `hart train transformer recipes/emoji/transformer.toml`, of which it takes sizes and settings:
- noise on the features of captions, so that words near to those of training draw the same;
- tokens of coarse scales, which decide what an image shows, weigh more;
- half as much again for the cluster of a code (IAR, arXiv 2501.00880): near codes look alike;
- a rate that falls evenly to a fiftieth by the clock, for machines that others use too.
The same command goes on from the last checkpoint. On a CPU with AVX-512 bf16 and one thread a step of 64 takes 4 s.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import hart.training.step as stepping
from hart.checkpoint.loading import resolve_model
from hart.data.encoded import EncodedSet
from hart.errors import Stopped
from hart.losses.hart_loss import SAMPLED_TOP_K, SAMPLED_TOP_P
from hart.tokenizer.quantizer import Mistakes
from hart.training.config import OptimizerConfig, TransformerRecipe
from hart.training.hart_task import TransformerBatch, TransformerTask
from hart.training.image_sources import open_training_data
from hart.training.task import Engine, Share
from hart.training.token_sources import Conditions, TokenBatch
from hart.training.trainer import Trainer
from hart.transformer.modulation import modulate
from hart.transformer.transformer import ModulatedHead, gather_tokens
from hart.types import TextContext

RECIPE = Path(__file__).with_name("transformer.toml")
TEXT_NOISE = 0.4
"""Largest standard deviation; features have unit root mean square."""
SCALE_WEIGHTS = (3.0, 2.0, 1.5, 1.25, 1.0, 1.0)
CLUSTERS, CLUSTER_WEIGHT = 128, 0.5
WARMUP = 20


class Mixture:
    """Encoded sets, each with its share of the views, all its images alike; see `hart.training.token_sources`."""

    def __init__(self, sets: Mapping[Path, float], task: TransformerTask) -> None:
        self.data = task.tokens.data
        self.task = task
        self.sets = [EncodedSet(folder) for folder in sets]
        self.shares = torch.tensor(list(sets.values()))
        self.schedule = task.recipe.transformer.schedule

    def prepare(self) -> None: ...

    def batch(self, share: Share) -> TokenBatch:
        generator = share.generator("mixture")
        which = torch.multinomial(self.shares, share.batch_size, replacement=True, generator=generator)
        draws = torch.rand(share.batch_size, generator=generator).tolist()
        codes, rests, texts = [], [], []
        for number, draw in zip(which.tolist(), draws, strict=True):
            encoded = self.sets[number]
            row = int(torch.randint(len(encoded), (1,), generator=generator))
            codes.append(encoded.codes(row))
            rest = encoded.last_scale(row)
            assert rest is not None
            rests.append(rest)
            texts.append(encoded.text(row, int(draw * encoded.captions(row))))
        counts = [side * side for side in self.sets[0].sides]
        wrong = Mistakes(torch.full((share.batch_size, 1), self.task.recipe.mistakes), share.generator("view"))
        indices = tuple(torch.stack(codes).split(counts, dim=1))
        latent = self.task.tokenizer.latent_from_codes(indices, torch.stack(rests), self.schedule)
        text = TextContext.cat(texts)
        strength = TEXT_NOISE * torch.rand(share.batch_size, 1, 1, generator=generator)
        noise = strength * torch.randn(text.embeddings.shape, generator=generator) * text.mask.unsqueeze(-1)
        maps = self.task.tokenizer.token_maps(latent, self.schedule, wrong)
        return TokenBatch(maps, Conditions(text=TextContext(text.embeddings + noise, text.mask)))

    def first(self, count: int) -> Conditions:
        return Conditions(text=TextContext.cat([self.sets[0].text(row, 0) for row in range(count)]))

    def figures(self, share: Share, engine: Engine) -> dict[str, float]:
        return {}


class FurtherTask(TransformerTask):
    """`TransformerTask` with the losses that this module's docstring tells of."""

    def mix(self, sets: Mapping[Path, float]) -> None:
        self.tokens = Mixture(sets, self)
        assert self.module.residual is not None
        # half of what the recipe says, for the steps alone: the diffusion has learned most of what it will
        self.module.residual.config = self.module.residual.config.replace(batch_multiplier=2)
        clusters = clusters_of(self.codebook.weight.detach().float(), CLUSTERS)
        self._members = F.one_hot(clusters, CLUSTERS).T.float()[clusters]  # (V, V): 1 for codes of the same cluster
        weights = torch.tensor(SCALE_WEIGHTS[: len(self.recipe.transformer.scales)])
        self._weights = weights
        self._token_losses = torch.compile(token_losses, dynamic=False) if self.recipe.trainer.compile else token_losses

    def loss(self, part: str, batch: TransformerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        hart, maps, cells = self.module, batch.maps, batch.cells
        assert cells is not None
        assert batch.draws is not None
        assert hart.residual is not None
        output = hart.transformer(batch.context, maps.teacher_forcing_input, cells)
        logits = hart.transformer.logits(output.hidden, output.conditioning)
        targets = torch.cat([*maps.indices[:-1], maps.indices[-1].gather(1, cells)], dim=1)
        codes, clusters = self._token_losses(logits.flatten(0, 1), targets.flatten(), self._members)
        codes, clusters = codes.view_as(targets), clusters.view_as(targets)
        weights = self._weights.repeat_interleave(torch.tensor(output.segments))
        weights = weights / weights.mean()
        parts = {"cross_entropy": codes.mean(), "clusters": clusters.mean()}
        with torch.no_grad():
            for k, entropy in enumerate(codes.split(output.segments, dim=1)):
                parts[f"cross_entropy_{k}"] = entropy.mean()
            last = logits[:, -output.segments[-1] :]
            drawn = drawn_codes(last.float(), batch.draws.codes)
            embeddings = self.codebook(drawn)
            target = gather_tokens(maps.last_scale_continuous, cells) - embeddings
        steps, noise = batch.draws.timesteps, batch.draws.noise

        def repeated(x: Tensor) -> Tensor:
            return x.unsqueeze(1).expand(-1, steps.shape[1], -1, -1).flatten(0, 2)

        condition = hart.residual_condition(output.last_scale, embeddings)
        diffusion = hart.residual.loss(repeated(condition), repeated(target), steps.flatten(), noise.flatten(0, 2))
        parts["diffusion_mse"] = diffusion.mse.mean()
        total = ((codes + CLUSTER_WEIGHT * clusters) * weights).mean()
        return total + self.recipe.diffusion_weight * diffusion.total.mean(), parts


def token_losses(logits: Tensor, targets: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropies (T,) of codes and of their clusters, from logits (T, V). members: (V, V), see `FurtherTask`."""
    logs = F.log_softmax(logits.float(), dim=-1)
    cluster = (logs.exp() * members[targets]).sum(-1).clamp_min(1e-12).log()
    return -logs.gather(1, targets.unsqueeze(1)).squeeze(1), -cluster


def drawn_codes(logits: Tensor, uniform: Tensor) -> Tensor:
    """As `hart.generation.logits` draws, without sorting what is outside the best."""
    best, codes = logits.topk(SAMPLED_TOP_K, dim=-1)
    chances = best.softmax(-1)
    before = chances.cumsum(-1) - chances
    chances = chances.masked_fill(before >= SAMPLED_TOP_P, 0).cumsum(-1)
    place = torch.searchsorted(chances, uniform.unsqueeze(-1) * chances[..., -1:] * (1 - 1e-6), right=True)
    return codes.gather(-1, place.clamp_max(SAMPLED_TOP_K - 1)).squeeze(-1)


def clusters_of(points: Tensor, count: int, rounds: int = 30) -> Tensor:
    """(V,) the cluster of each of some points (V, D), by k-means."""
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=count).unsqueeze(1)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return torch.cdist(points, centres).argmin(1)


def fast_head(head: ModulatedHead, hidden: Tensor, condition: Tensor) -> Tensor:
    """Logits by a product in the precision of the others; training alone, generation keeps float32."""
    scale, shift = head.modulation(condition).unsqueeze(1).chunk(2, dim=2)
    return head.linear(modulate(head.norm(hidden), scale, shift))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mix", nargs="+", required=True, metavar="FOLDER=SHARE", help="encoded sets")
    parser.add_argument("--minutes", type=float, required=True, help="of the whole run, from its first start")
    parser.add_argument("--init-from", default="emoji")
    parser.add_argument("--rate", type=float, default=2e-3)
    given = parser.parse_args()
    sets = {Path(folder): float(share) for folder, _, share in (entry.rpartition("=") for entry in given.mix)}
    model = str(resolve_model(given.init_from))
    changes: Sequence[str] = (
        f"data={next(iter(sets))}", "views=1", f"tokenizer={model}", f"text_encoder={model}", f"init_from={model}",
        "trainer.steps=1000000", "trainer.ema_decay=0.99", "trainer.sample_every=0", "trainer.checkpoint_every=140",
        "trainer.log_every=20", f"optimizer.learning_rate={given.rate}",
    )  # fmt: skip
    recipe = TransformerRecipe.read(RECIPE, tuple(changes))
    given.out.mkdir(parents=True, exist_ok=True)
    started = given.out / "started"
    if not started.exists():
        started.write_text(str(time.time()))
    stopping: list[int] = []
    begin, seconds = float(started.read_text()), given.minutes * 60

    def rate_by_clock(step: int, steps: int, config: OptimizerConfig) -> float:
        passed = time.time() - begin
        if passed >= seconds and not stopping:
            stopping.append(step)
            os.kill(os.getpid(), signal.SIGTERM)  # the trainer ends with a checkpoint
        left = max(1 - passed / seconds, 0.0)
        return config.learning_rate * max(left, 0.02) * min(1.0, (step + 1) / WARMUP)

    stepping.learning_rate = rate_by_clock  # type: ignore[attr-defined]
    ModulatedHead.forward = fast_head  # type: ignore[method-assign]
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
    data = open_training_data(recipe, 128, "caption", rank=0, world=1)
    task = FurtherTask(recipe, data)
    task.mix(sets)

    def say(step: int, figures: dict[str, float]) -> None:
        typer.echo(f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    trainer = Trainer(task, recipe, given.out, accept_changes=True, on_log=say)
    try:
        trainer.run()
    except Stopped as stopped:
        typer.echo(stopped)


if __name__ == "__main__":
    main()
