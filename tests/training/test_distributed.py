"""Several processes on the CPU give what one gives: gloo, DDP and FSDP2, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import fully_shard

from hart.config import ConfigError
from hart.errors import HartError
from hart.training.distributed import DistributedContext
from hart.training.optimizer import build_optimizer
from hart.training.trainer import Trainer
from image_files import write_numbered_shards
from processes import CONTEXT
from toy_training import OPTIMIZER, TASKS, TRAINER, recipe, tiny_encoded_set, train_in_process
from waiting import PATIENCE

LAUNCH = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29999"}
Run = tuple[list[Any], dict[str, Any]]
"""Log lines and final weights."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """Trains in two processes, which serve all tests."""
    rendezvous, results = tmp_path_factory.mktemp("pair") / "rendezvous", CONTEXT.Queue()
    queues = [CONTEXT.Queue() for _ in range(2)]
    arguments = [(rank, 2, rendezvous.as_uri(), runs, results) for rank, runs in enumerate(queues)]
    workers = [CONTEXT.Process(target=train_in_process, args=given) for given in arguments]
    for worker in workers:
        worker.start()

    def train(folder: Path, kind: str = "toy", **trainer: Any) -> Run:
        for runs in queues:
            runs.put((str(folder), kind, trainer))
        while True:
            with suppress(Empty):
                return results.get(timeout=1)
            assert all(worker.is_alive() for worker in workers), "its error is above"

    yield train
    for runs, worker in zip(queues, workers, strict=True):
        runs.put(None)
        worker.join(PATIENCE)
        assert worker.exitcode == 0


def alone(folder: Path, kind: str = "toy", **trainer: Any) -> Run:
    task, given = TASKS[kind](recipe(**trainer))
    lines: list[Any] = []
    run = Trainer(task, given, folder, on_log=lambda step, figures: lines.append((step, figures)))
    run.run()
    return lines, {name: value.tolist() for name, value in task.module.state_dict().items()}


def assert_same(ours: Run, theirs: Run) -> None:
    for (step, figures), (other_step, other) in zip(ours[0], theirs[0], strict=True):
        assert step == other_step
        for name in figures.keys() - {"images_per_second"}:
            assert figures[name] == pytest.approx(other[name], abs=1e-5, rel=1e-5), name
    assert_same_weights(ours, theirs)


def assert_same_weights(ours: Run, theirs: Run) -> None:
    for name, value in ours[1].items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(theirs[1][name]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("toy", {"distributed": "ddp"}),
        ("toy", {"distributed": "fsdp2", "accumulate": 2, "activation_checkpointing": True}),
        ("adversarial", {"accumulate": 2}),
        ("tokenizer", {"steps": 3}),
        ("two scales", {"steps": 2}),
        ("transformer", {"distributed": "fsdp2", "steps": 2, "activation_checkpointing": True}),
    ],
    ids=["ddp", "fsdp2, accumulated", "two parts", "tokenizer", "unused phi", "transformer"],
)
def test_two_processes_give_what_one_gives(
    together: Callable[..., Run], tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    """Plain fsdp2 and a tokenizer of accumulated parts: in the tests below."""
    one = alone(tmp_path / "one", kind, **{name: settings[name] for name in settings if name == "steps"})
    two = together(tmp_path / "two", kind, **settings)
    assert_same(two, one)


def test_two_processes_read_the_stream_that_one_reads(together: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_numbered_shards(tmp_path / "set", shards=4, each=3, damaged=(4,))
    data = f"{tmp_path}/set/train-{{0000..0003}}.tar"
    two = together(tmp_path / "two", "streamed", steps=4, data=data, accumulate=2)
    assert_same(two, alone(tmp_path / "one", "streamed", steps=4, data=data))
    assert sum(figures["damaged"] for _, figures in two[0]) > 0, "counted over both"


def test_two_processes_train_on_a_precomputed_set_as_one_does(together: Callable[..., Run], tmp_path: Path) -> None:
    data = str(tiny_encoded_set(tmp_path / "set") / "codes")
    two = together(tmp_path / "two", "encoded", steps=2, data=data)
    assert_same(two, alone(tmp_path / "one", "encoded", steps=2, data=data))


def test_a_run_goes_on_with_another_number_of_processes(together: Callable[..., Run], tmp_path: Path) -> None:
    whole = alone(tmp_path / "whole", steps=9)
    last = Path("checkpoints", "step-00000009.pt")
    folder = tmp_path / "mixed"
    together(folder, distributed="fsdp2", steps=9)
    (folder / last).unlink()
    assert_same_weights(alone(folder, steps=9), whole)
    (folder / last).unlink()
    assert_same_weights(together(folder, distributed="fsdp2", steps=9), whole)


def test_parts_of_a_batch_give_what_the_whole_gives(tmp_path: Path) -> None:
    whole = alone(tmp_path / "whole")
    assert_same(alone(tmp_path / "parts", accumulate=4, activation_checkpointing=True), whole)


@pytest.mark.parametrize(
    ("environment", "change", "message"),
    [
        ({}, {"distributed": "fsdp2"}, "only one was started: torchrun"),
        ({}, {"accumulate": 3}, "batch_size 4 / accumulate 3 cannot be shared evenly by 1 process: change one"),
        ({}, {"device": "tpu"}, "unknown device 'tpu': choose cpu, cuda, cuda:<number> or mps"),
        (LAUNCH, {"distributed": "none"}, 'several processes were launched: set it to "auto"'),
        (LAUNCH, {"device": "cuda:1"}, "each process takes its own GPU"),
        ({"WORLD_SIZE": "x"}, {}, "WORLD_SIZE is 'x', not a number: start several processes with torchrun"),
        ({"WORLD_SIZE": "0"}, {}, "RANK is 0 of 0 processes:"),
        (LAUNCH | {"RANK": "2"}, {}, "RANK is 2 of 2 processes:"),
        ({"WORLD_SIZE": "2"}, {}, "RANK is not set: start several processes with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, {}, "MASTER_ADDR is not set"),
    ],
)
def test_a_launch_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], change: dict[str, Any], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HartError, match=message):
        DistributedContext(TRAINER.replace(**change))


def test_muon_is_refused_where_matrices_are_split(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "r").as_uri(), rank=0, world_size=1)
    try:
        module = fully_shard(torch.nn.Linear(2, 2))
        with pytest.raises(ConfigError, match='"muon" needs whole matrices, which fsdp2 splits'):
            build_optimizer(module, OPTIMIZER.replace(kind="muon"))
    finally:
        torch.distributed.destroy_process_group()
