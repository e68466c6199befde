"""The loop with a toy task: resuming is exact at any moment, faults keep the last checkpoint, logs are means."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hart.errors import HartError
from hart.training import checkpoint
from hart.training.progress import StepFigures, StepReport, Work
from hart.training.task import Microbatch
from hart.training.trainer import Trainer
from processes import exit_code
from toy_training import OPTIMIZER, AdversarialTask, ToyTask, recipe, train_and_die
from training_state import assert_resumes, checkpoints, flat, log_lines, state


class FaultyTask(ToyTask):
    """Something goes wrong in one step."""

    def __init__(self, fault: str, step: int) -> None:
        super().__init__()
        self.fault = fault
        self.step = step

    def batch(self, microbatch: Microbatch) -> Tensor:
        self.failing = microbatch.step == self.step
        if self.failing and self.fault == "shard":
            raise FileNotFoundError(errno.ENOENT, "No such file", "train-0007.tar")
        return super().batch(microbatch)

    def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(name, batch)
        if self.failing and self.fault == "loss":
            loss = loss * torch.nan
        if self.failing and self.fault == "gradient":
            # finite itself, and infinitely steep
            loss = loss + (self.module.last.weight - self.module.last.weight.detach()).abs().sqrt().sum()
        return loss, parts


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    given = recipe(OPTIMIZER.replace(kind=kind))
    assert_resumes(lambda out: Trainer(ToyTask(given.optimizer), given, out), tmp_path, 6)


def test_a_run_killed_at_any_moment_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    Trainer(ToyTask(), recipe(steps=8), whole).run()
    moments = random.Random(0)
    deaths = 0
    # an unbroken life has about 30 moments: losses, log lines, flushes, renames and removals
    while True:
        code = exit_code(train_and_die, str(killed), moments.randint(4, 13))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        deaths += 1
        assert deaths < 30
    assert deaths >= 2
    assert flat(state(killed, 8)) == flat(state(whole, 8))
    assert log_lines(killed) == log_lines(whole)
    assert checkpoints(killed) == checkpoints(whole), "no half-written file is left"


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_training_lowers_the_loss_and_saves_the_average(tmp_path: Path, kind: str) -> None:
    given = recipe(OPTIMIZER.replace(kind=kind), steps=60)
    task = ToyTask(given.optimizer)
    Trainer(task, given, tmp_path).run()
    first, *_, last = log_lines(tmp_path)
    assert last["loss"] < 0.2 * first["loss"]
    assert task.saved == [tmp_path / "model"] * 20
    assert task.prepared == 1


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    Trainer(ToyTask(), recipe(steps=5, checkpoint_every=1, keep_checkpoints=3), tmp_path).run()
    assert checkpoints(tmp_path) == ["step-00000003.pt", "step-00000004.pt", "step-00000005.pt"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss", r"step 5: the loss is nan: go on with a lower learning rate or gradient_clip"),
        ("gradient", r"step 5: the gradient norm is (nan|inf): go on with a lower learning rate"),
        ("shard", r"step 5: the data of a batch cannot be read: .*train-0007\.tar"),
    ],
)
def test_faults_are_said_and_keep_the_checkpoint(tmp_path: Path, fault: str, message: str) -> None:
    # the fault comes in the step that would be followed by the second checkpoint
    task = FaultyTask(fault, 5)
    with pytest.raises(HartError, match=rf"{message}.*; the last good checkpoint is {tmp_path}.*step-00000003\.pt"):
        Trainer(task, recipe(), tmp_path).run()
    assert checkpoints(tmp_path) == ["step-00000003.pt"]
    assert all(p.isfinite().all() for p in task.module.parameters()), "the weights must not have been touched"


def test_figures_that_come_late_change_nothing_and_nothing_bad_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where no step waits for the one before."""
    Trainer(ToyTask(), recipe(), tmp_path / "at once").run()
    monkeypatch.setattr(StepFigures, "arrived", False)
    Trainer(ToyTask(), recipe(), tmp_path / "late").run()
    assert log_lines(tmp_path / "late") == log_lines(tmp_path / "at once")
    assert flat(state(tmp_path / "late", 6)) == flat(state(tmp_path / "at once", 6))
    given = recipe(log_every=100)
    with pytest.raises(HartError, match=r"step 4: the loss is nan: .*; the last good .*step-00000003\.pt"):
        Trainer(FaultyTask("loss", 4), given, tmp_path / "faulty").run()
    assert checkpoints(tmp_path / "faulty") == ["step-00000003.pt"]


def test_a_full_disk_is_said_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.save, []

    def failing(saved: Any, file: Any) -> None:
        calls.append(1)
        file.write(b"a beginning")
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.seek(0)
        real(saved, file)

    monkeypatch.setattr(checkpoint.torch, "save", failing)
    with pytest.raises(
        HartError, match=r"checkpoint of step 6 could not be written: No space left .*; the last .*0003"
    ):
        Trainer(ToyTask(), recipe(), tmp_path).run()
    assert checkpoints(tmp_path) == ["step-00000003.pt"], "the unfinished file must make room"
    monkeypatch.undo()
    resumed = Trainer(ToyTask(), recipe(), tmp_path)
    assert resumed.step == 3
    resumed.run()


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_checkpoint_is_never_passed_over_silently(tmp_path: Path, damage: str) -> None:
    Trainer(ToyTask(), recipe(), tmp_path).run()
    path = tmp_path / checkpoint.FOLDER / "step-00000006.pt"
    content = path.read_bytes()
    weights = state(tmp_path, 6)["weights"]["average"]["first.weight"].numpy().tobytes()
    if damage == "cut":
        path.write_bytes(content[:-200])
    else:
        assert content.count(weights) == 1
        path.write_bytes(content.replace(weights, weights[:-1] + bytes([weights[-1] ^ 1])))
    with pytest.raises(
        HartError, match=r"0006\.pt cannot be resumed from .*; delete it to go on from .*step-00000003\.pt"
    ):
        Trainer(ToyTask(), recipe(), tmp_path)
    older = path.with_name("step-00000003.pt")
    older.write_bytes(older.read_bytes()[:100])
    with pytest.raises(HartError, match=r"no older one can be read: go on with .* or start again in another folder"):
        Trainer(ToyTask(), recipe(), tmp_path)


def test_another_recipe_is_refused_by_name(tmp_path: Path) -> None:
    Trainer(ToyTask(), recipe(), tmp_path).run()
    other = recipe(OPTIMIZER.replace(learning_rate=1.0), data="other", seed=3)
    with pytest.raises(HartError, match=r"of another recipe: optimizer\.learning_rate.*trainer\.seed") as caught:
        Trainer(ToyTask(), other, tmp_path)
    assert "0.05 there, 1.0 now" in str(caught.value)
    longer = recipe(steps=7, log_every=1, checkpoint_every=2, keep_checkpoints=1, trackers=())
    assert Trainer(ToyTask(), longer, tmp_path).step == 6, "how long and how often may change"


def test_logs_are_means_over_the_steps_that_report(tmp_path: Path) -> None:
    Trainer(ToyTask(), recipe(steps=5), tmp_path).run()
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["step_number"] for line in lines] == [0.5, 2.5, 4.0]
    assert [line.get("odd") for line in lines] == [1.0, 1.0, None], "not diluted by the steps that do not have it"
    assert all({"loss", "gradient_norm", "absolute", "learning_rate"} <= line.keys() for line in lines)


def test_a_finished_run_writes_its_model_again_and_nothing_more(tmp_path: Path) -> None:
    Trainer(ToyTask(), recipe(), tmp_path).run()
    before = flat(state(tmp_path, 6))
    (tmp_path / "model" / ".killed.partial").mkdir()
    again, notes = ToyTask(), list[str]()
    Trainer(again, recipe(), tmp_path, on_note=notes.append).run()
    done = "the run has 6 steps: nothing is trained, its model is written again"
    assert notes == [f"{done}; for more give a larger trainer.steps"]
    assert flat(state(tmp_path, 6)) == before
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"], "nothing half-written is left"
    assert again.saved == [tmp_path / "model"]
    assert not again.prepared


def test_bfloat16_is_an_autocast_of_float32_weights_in_the_loss_alone(tmp_path: Path) -> None:
    seen = []

    class Probe(ToyTask):
        def batch(self, microbatch: Microbatch) -> Tensor:
            seen.append(self.module.predict(torch.ones(1, 2)).dtype)
            return super().batch(microbatch)

        def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(self.module.predict(torch.ones(1, 2)).dtype)
            return super().loss(name, batch)

    task = Probe()
    Trainer(task, recipe(precision="bfloat16", steps=1), tmp_path).run()
    assert seen == [torch.float32, torch.bfloat16]
    assert task.module.first.weight.dtype == torch.float32


@pytest.mark.parametrize(("units", "told"), [({"amx_bf16": False}, True), ({"amx_bf16": True}, False), ({}, False)])
def test_a_processor_that_is_slow_in_bfloat16_is_told(
    units: dict[str, bool], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said where PyTorch does not know."""
    known = units and {"avx512_bf16": False, **units}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    notes: list[str] = []
    Trainer(ToyTask(), recipe(precision="bfloat16", steps=1), tmp_path, on_note=notes.append).run()
    assert any("trainer.precision=float32" in note for note in notes) is told


def test_compiled_blocks_learn_what_plain_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def trace_only(module: nn.Module) -> None:
        compiled.append(module)
        # the real compiler would take minutes and a C++ one; what it is given is the same
        real(module, backend="eager")

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", trace_only)
    plain, traced = ToyTask(), ToyTask()
    Trainer(plain, recipe(steps=3), tmp_path / "plain").run()
    Trainer(traced, recipe(steps=3, compile=True, activation_checkpointing=True), tmp_path / "traced").run()
    assert compiled == list(traced.module.blocks)
    assert flat(traced.module.state_dict()) == flat(plain.module.state_dict())


def test_parts_are_stepped_by_their_own_losses(tmp_path: Path) -> None:
    task = AdversarialTask()
    start = task.judge.weight.item()
    Trainer(task, recipe(steps=1, log_every=1), tmp_path).run()
    assert task.judge.weight.item() == start, "it starts a step later"
    run = Trainer(task, recipe(steps=2, log_every=1), tmp_path)
    run.run()
    assert task.judge.weight.item() != start
    first, second = log_lines(tmp_path)
    assert "judge_loss" not in first
    assert {"loss", "judge_loss", "judge_gradient_norm"} <= second.keys()
    assert set(run.stepper.average.weights) == {name for name, _ in task.module.named_parameters()}


def test_rows_set_anew_lose_their_moments_and_restart_their_average(tmp_path: Path) -> None:
    task = ToyTask()
    run = Trainer(task, recipe(), tmp_path)
    run.run()
    weight, rows = task.module.first.weight, torch.tensor([1, 3])
    with torch.no_grad():
        weight[rows] = 9.0
    moments = run.stepper.optimized["model"].optimizer.optimizers[0].state[weight]
    assert moments["exp_avg"].all()
    run.stepper.reset_rows(weight, rows)
    for name in ("exp_avg", "exp_avg_sq"):
        assert (moments[name] == 0).all(dim=1).tolist() == [False, True, False, True]
    assert (run.stepper.average.weights["first.weight"] == 9.0).all(dim=1).tolist() == [False, True, False, True]


class PicturingTask(ToyTask):
    def samples(self, step: int, module: nn.Module) -> dict[str, Image.Image]:
        assert module is not self.module
        return {"dot": Image.new("RGB", (step, 2))}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_and_figures_go_to_the_trackers(tmp_path: Path) -> None:
    Trainer(PicturingTask(), recipe(sample_every=4, trackers=("tensorboard",)), tmp_path).run()
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step-00000004-dot.png",
        "step-00000006-dot.png",
    ]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps() -> tuple[list[int], list[int]]:
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        return [event.step for event in events.Scalars("loss")], [event.step for event in events.Images("dot")]

    assert steps() == ([2, 4, 6], [4, 6])
    # as after a crash: the steps since the last checkpoint are made again
    (tmp_path / "checkpoints" / "step-00000006.pt").unlink()
    Trainer(PicturingTask(), recipe(steps=8, sample_every=4, trackers=("tensorboard",)), tmp_path).run()
    assert steps() == ([2, 4, 6, 8], [4, 8])


def test_weights_and_biases_get_figures_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, str]] = []
    wandb, started = ModuleType("wandb"), []
    run = SimpleNamespace(log=lambda values, step: logged.extend((step, name) for name in values), finish=list)
    wandb.init = lambda **options: started.append(options) or run  # type: ignore[attr-defined]
    wandb.Image = lambda pixels: pixels.shape  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    Trainer(PicturingTask(), recipe(sample_every=6, trackers=("wandb",)), tmp_path).run()
    assert (started[0]["name"], started[0]["resume"]) == (tmp_path.name, "allow")
    assert started[0]["config"]["trainer"]["steps"] == 6
    assert {(2, "loss"), (4, "loss"), (6, "loss"), (6, "dot")} <= set(logged)
    for folder in (tmp_path, tmp_path / "elsewhere" / tmp_path.name):
        Trainer(PicturingTask(), recipe(steps=7, trackers=("wandb",)), folder).run()
    first, resumed, other = (options["id"] for options in started)
    assert first == resumed != other, "another folder is another run, though of the same name"


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(HartError, match=r"\"wandb\" is not installed: run .*pip install 'hart-image\[wandb\]'"):
        Trainer(ToyTask(), recipe(trackers=("wandb",)), tmp_path).run()


def test_every_step_is_reported(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    Trainer(ToyTask(), recipe(peak_tflops=1.0), tmp_path, work=Work(1000, 1000, 3), on_step=reports.append).run()
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    for report in reports:
        assert report.mfu == pytest.approx(report.images_per_second * 6000 / 1e12)
