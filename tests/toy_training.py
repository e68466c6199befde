"""A toy task, and what the tests run in processes of their own (which import this module by name)."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hart.checkpoint.loading import load_tokenizer
from hart.commands.program import outlive_readers
from hart.config import ClassConditioning, HartConfig
from hart.data.opening import open_source
from hart.data.transforms import ImageTransform
from hart.errors import Stopped
from hart.text_encoder import load_text_encoder
from hart.training.config import (
    DiscriminatorConfig,
    OptimizerConfig,
    ReadingConfig,
    Recipe,
    TokenizerRecipe,
    TrainerConfig,
    TransformerRecipe,
)
from hart.training.distributed import DistributedContext
from hart.training.dry_run import RehearsedTransformer
from hart.training.encode_options import EncodeOptions
from hart.training.encoding import Encoders, encode_dataset
from hart.training.image_sources import open_training_data
from hart.training.task import Microbatch, OptimizedModule, Origin, Task, TrainContext
from hart.training.tokenizer_task import TokenizerTask
from hart.training.trainer import Trainer
from hart.training.transformer_task import TransformerTask
from helpers import captioned_images, tiny_class_config, tiny_text_config, tiny_tokenizer_config, transformer_recipe
from image_files import write_captioned_folder
from models import save_tiny_text_model

TRAINER = TrainerConfig(steps=6, batch_size=4, log_every=2, checkpoint_every=3, ema_decay=0.9)
OPTIMIZER = OptimizerConfig(learning_rate=0.05, warmup_steps=2)
# Adam turns rounding errors of tiny gradients into whole steps: they must stay below the tolerance.
GENTLE = OptimizerConfig(learning_rate=1e-5, warmup_steps=0)


def recipe(optimizer: OptimizerConfig = OPTIMIZER, data: str = "toy", **trainer: Any) -> Recipe:
    return Recipe(data=data, trainer=TRAINER.replace(**trainer), optimizer=optimizer)


class Network(nn.Module):
    """Two repeated blocks between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.last = nn.Linear(4, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

    def predict(self, x: Tensor) -> Tensor:
        """Not called `forward`, as with the real models."""
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.last(h)


class ToyTask(Task):
    """Fits a line through noisy points from the generators of the steps."""

    sources: Any = None

    def __init__(self, optimizer: OptimizerConfig = OPTIMIZER) -> None:
        self.module = Network()
        self.optimized = {"model": OptimizedModule(self.module, optimizer, list(self.module.blocks))}
        self.sources = {"data": Origin("a line", "points on a line")}
        self.saved: list[Path] = []
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def batch(self, microbatch: Microbatch) -> Tensor:
        return microbatch.mine(torch.rand(microbatch.batch_size, 2, generator=microbatch.generator("points")))

    def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = self.module.predict(batch) - (batch @ torch.tensor([[2.0], [-1.0]]) + 1)
        return error.square().mean(), {"absolute": error.abs().mean()}

    def after_step(self, microbatch: Microbatch, train_context: TrainContext) -> dict[str, float]:
        return {"step_number": microbatch.step} | ({"odd": 1.0} if microbatch.step % 2 else {})

    def save(self, folder: Path, module: nn.Module) -> None:
        assert module is not self.module, "the averaged weights are what is kept"
        self.saved.append(folder)
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_bytes(b"weights")


class AdversarialTask(ToyTask):
    """Two modules: the second learns to tell the outputs of the first from the truth, and starts a step later."""

    shardable = False

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Linear(1, 1)
        nn.init.constant_(self.judge.weight, 0.5)
        nn.init.zeros_(self.judge.bias)
        self.optimized["judge"] = OptimizedModule(self.judge, OPTIMIZER.replace(learning_rate=0.02), start_step=1)

    def batch(self, microbatch: Microbatch) -> dict[str, Tensor]:  # type: ignore[override]
        return {"points": super().batch(microbatch)}

    def loss(self, name: str, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        if name == "judge":
            truth = batch["points"] @ torch.tensor([[2.0], [-1.0]]) + 1
            gap = self.judge(truth).tanh() - self.judge(batch["made"]).tanh()
            return -gap.mean(), {"gap": gap.mean()}
        made = self.module.predict(batch["points"])
        batch["made"] = made.detach()
        loss, parts = super().loss(name, batch["points"])
        return loss - 0.1 * self.judge(made).mean(), parts


def captioned_recipe(data: Path, **reading: Any) -> TransformerRecipe:
    """Its model is never opened."""
    return tiny_transformer_recipe(recipe(data=str(data)), data / "model").replace(reading=ReadingConfig(**reading))


def class_recipe(data: Path, **reading: Any) -> TransformerRecipe:
    """Of three classes."""
    sizes = tiny_class_config().transformer.replace(classes=ClassConditioning(3))
    return captioned_recipe(data, **reading).replace(transformer=sizes, text_encoder="", diffusion=None)


def join(rank: int, world: int, rendezvous: str) -> None:
    """Become one of `world` processes, until this one ends, as in a launch.

    A group that is ended before the module that it trains may wait for ever: where DDP has it last, it waits with
    Python's lock for a thread that wants this lock (https://github.com/pytorch/pytorch/issues/56297).
    """
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"ACCELERATE_USE_CPU": "true"}
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)


def train_in_process(rank: int, world: int, rendezvous: str, runs: Any, results: Any) -> None:
    """One of `world` processes that train together, run after run; the first puts the log and the weights of each.

    runs: (folder, kind, settings of the trainer), and None at the end.
    """
    torch.set_num_threads(1)
    join(rank, world, rendezvous)
    for folder, kind, trainer in iter(runs.get, None):
        task, given = TASKS[kind](recipe(**trainer))
        lines: list[tuple[int, dict[str, float]]] = []
        log = partial(_keep, lines)
        run = Trainer(task, given, Path(folder), DistributedContext(given.trainer), on_log=log)
        run.run()
        state = run.stepper.state_dict()
        if rank == 0:
            results.put((lines, {name: v.tolist() for name, v in state["modules"]["model"].items()}))


def _keep(lines: list[Any], step: int, figures: dict[str, float]) -> None:
    lines.append((step, figures))


def _toy(given: Recipe) -> tuple[ToyTask, Recipe]:
    return ToyTask(given.optimizer), given


def _adversarial(given: Recipe) -> tuple[ToyTask, Recipe]:
    return AdversarialTask(), given


def tiny_tokenizer_recipe(given: Recipe) -> TokenizerRecipe:
    """Data and trainer of `given`."""
    return TokenizerRecipe(
        data=given.data,
        tokenizer=tiny_tokenizer_config(),
        trainer=given.trainer,
        optimizer=GENTLE,
        adversarial=DiscriminatorConfig(optimizer=GENTLE, start_step=1, width=16, layers=1, norm="group"),
        revive_every=1,
    )


def tiny_transformer_recipe(given: Recipe, model: Path) -> TransformerRecipe:
    """Data and trainer of `given`; tokenizer and text encoder of a model that `save_tiny_text_model` wrote."""
    return transformer_recipe(
        tiny_text_config(modulation="linear"),
        data=given.data,
        tokenizer=str(model),
        text_encoder=str(model),
        trainer=given.trainer,
        optimizer=GENTLE,
    )


def tiny_encoders(model: Path) -> Encoders:
    """Tokenizer and text encoder of a model that `save_tiny_text_model` wrote."""
    config = HartConfig.load(model / "config.json").text_encoder
    assert config is not None
    return Encoders(load_tokenizer(model), load_text_encoder(config, model), torch.device("cpu"))


def tiny_encoded_set(folder: Path) -> Path:
    """Writes `model`, nine captioned `images`, and `codes` made of both in three shards."""
    model = save_tiny_text_model(folder / "model")
    write_captioned_folder(folder / "images", 9)
    source, options = open_source(folder / "images"), EncodeOptions(dtype="float32", shard_size=3)
    encode_dataset(source, ImageTransform(8), tiny_encoders(model), folder / "codes", "train", options)
    return folder


def _tokenizer(given: Recipe) -> tuple[TokenizerTask, Recipe]:
    own = tiny_tokenizer_recipe(given)
    return TokenizerTask(own, captioned_images(6)), own


def _two_scales(given: Recipe) -> tuple[TokenizerTask, Recipe]:
    """Of which two of the four phi serve none."""
    own = tiny_tokenizer_recipe(given)
    own = own.replace(tokenizer=own.tokenizer.replace(scales=(1, 4)))
    return TokenizerTask(own, captioned_images(6)), own


def reading_task(given: TokenizerRecipe | TransformerRecipe, sizes: Any = 8) -> TokenizerTask | TransformerTask:
    """The task of a tiny recipe, which reads the data that the recipe names."""
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    data = open_training_data(given, sizes, rank=rank, world=world)
    return TransformerTask(given, data) if isinstance(given, TransformerRecipe) else TokenizerTask(given, data)


def reading_run(given: TokenizerRecipe | TransformerRecipe, folder: Path, **options: Any) -> Trainer:
    return Trainer(reading_task(given), given, folder, **options)


def _streamed(given: Recipe) -> tuple[Task, Recipe]:
    own = tiny_tokenizer_recipe(given).replace(reading=ReadingConfig(kind="stream", flip=0.5, max_damaged=0.1))
    return reading_task(own), own


def _encoded(given: Recipe) -> tuple[Task, Recipe]:
    own = tiny_transformer_recipe(given, Path(given.data).parent / "model")
    return reading_task(own), own


def _transformer(given: Recipe) -> tuple[RehearsedTransformer, Recipe]:
    own = tiny_transformer_recipe(given.replace(data=""), Path()).replace(tokenizer="", text_encoder="none")
    torch.manual_seed(0)  # the rehearsal does not care for its starting weights
    return RehearsedTransformer(own, torch.device("cpu")), own


TASKS: dict[str, Any] = {
    "toy": _toy,
    "adversarial": _adversarial,
    "tokenizer": _tokenizer,
    "two scales": _two_scales,
    "transformer": _transformer,
    "streamed": _streamed,
    "encoded": _encoded,
}


def train_and_die(folder: str, moment: int) -> None:
    """A run that kills itself at its `moment`-th event: a loss, a log line, a flush to disk or a rename."""
    torch.set_num_threads(1)
    left = [moment]

    def dying(function: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    os.fsync = dying(os.fsync)
    Path.replace = dying(Path.replace)  # type: ignore[method-assign]
    Path.unlink = dying(Path.unlink)  # type: ignore[method-assign]
    ToyTask.loss = dying(ToyTask.loss)  # type: ignore[method-assign]
    run = Trainer(ToyTask(), recipe(steps=8), Path(folder), on_log=dying(lambda step, figures: None))
    run.run()


class HeardByOne(ToyTask):
    """One process of several gets a signal in step 3, while the others go on to the next."""

    def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 4 and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
        return super().loss(name, batch)


def stop_in_process(rank: int, world: int, rendezvous: str, folder: str, results: Any) -> None:
    """One of `world` processes of a run that is stopped; puts (rank, (step, signal))."""
    torch.set_num_threads(1)
    join(rank, world, rendezvous)
    run = Trainer(HeardByOne(), recipe(), Path(folder), DistributedContext(recipe().trainer))
    try:
        run.run()
    except Stopped as stop:
        results.put((rank, (run.step, stop.signal)))


def stop_with_readers(images: str, folder: str, number: int) -> None:
    """A run that reads ahead in two processes, which get the signal too, as from a terminal or a batch system."""
    os.setsid()
    given = tiny_tokenizer_recipe(recipe()).replace(
        data=images, reading=ReadingConfig(kind="folder", memory_gb=0, workers=2)
    )

    def on_step(report: Any) -> None:
        if report.step == 4:
            os.killpg(0, number)

    try:
        reading_run(given, Path(folder), on_step=on_step).run()
    except Stopped as stop:
        raise SystemExit(stop.signal) from None


def lose_the_terminal(folder: str) -> None:
    """A run that prints each step to its terminal, which is closed after step 4; the shell sends a signal too."""
    import fcntl
    import termios

    terminal, own = os.openpty()
    os.setsid()
    fcntl.ioctl(own, termios.TIOCSCTTY, 0)
    for stream in (0, 1, 2):
        os.dup2(own, stream)
    os.close(own)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
    outlive_readers()

    def on_step(report: Any) -> None:
        if report.step == 4:
            os.close(terminal)
            os.kill(os.getpid(), signal.SIGHUP)
        print(report, flush=True)  # noqa: T201

    try:
        Trainer(ToyTask(), recipe(), Path(folder), on_step=on_step).run()
    except Stopped as stop:
        print(stop, flush=True)  # noqa: T201
        os._exit(stop.signal)


def die_at_the_second_signal(folder: str) -> None:
    """A run that gets SIGTERM twice in the loss of step 4."""

    class Twice(ToyTask):
        def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 5:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
            return super().loss(name, batch)

    Trainer(Twice(), recipe(), Path(folder)).run()
