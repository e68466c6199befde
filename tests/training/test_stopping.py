"""Ctrl-C, SIGTERM, a closed terminal: a checkpoint after the current step, from which a run ends as an unbroken one."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hart.errors import Stopped
from hart.stopping import SIGNALS
from hart.training import checkpoint
from hart.training.task import Microbatch
from hart.training.tokenizer_task import TokenizerTask
from hart.training.trainer import Trainer
from helpers import captioned_images
from image_files import write_captioned_folder
from processes import CONTEXT, exit_code
from toy_training import (
    ToyTask,
    die_at_the_second_signal,
    lose_the_terminal,
    recipe,
    stop_in_process,
    stop_with_readers,
    tiny_tokenizer_recipe,
)
from training_state import checkpoints, flat, log_lines, state
from waiting import PATIENCE


class SignalledTask(ToyTask):
    """Gets a signal at a moment of its step 4 (0-based)."""

    def __init__(self, moment: str, number: int) -> None:
        super().__init__()
        self.moment = moment
        self.number = number

    def batch(self, microbatch: Microbatch) -> Tensor:
        if microbatch.step == 4 and self.moment == "data":
            signal.raise_signal(self.number)
        if microbatch.step == 4 and self.moment == "data that never come":
            threading.Thread(target=os.kill, args=(os.getpid(), self.number)).start()
            threading.Event().wait()
        return super().batch(microbatch)

    def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.prepared and len(self.saved) == 1 and self.moment == "loss" and self.step == 4:
            signal.raise_signal(self.number)
        return super().loss(name, batch)

    def after_step(self, microbatch: Microbatch, train_context: Any) -> dict[str, float]:
        self.step = microbatch.step + 1
        return super().after_step(microbatch, train_context)


@pytest.mark.parametrize(
    ("moment", "done", "number"),
    [
        *(("loss", 5, number) for number in SIGNALS),
        ("data", 4, signal.SIGTERM),
        *(("data that never come", 4, number) for number in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_a_signal_keeps_all_steps_that_were_done(tmp_path: Path, moment: str, done: int, number: int) -> None:
    Trainer(ToyTask(), recipe(), tmp_path / "whole").run()
    folder = tmp_path / "stopped"
    before = signal.getsignal(number)
    with pytest.raises(
        Stopped, match=rf"stopped after step {done}; kept: .*step-0000000{done}\.pt; the same command"
    ) as e:
        Trainer(SignalledTask(moment, number), recipe(), folder).run()
    assert e.value.signal == number
    assert signal.getsignal(number) == before
    assert checkpoints(folder) == ["step-00000003.pt", f"step-0000000{done}.pt"]
    resumed = Trainer(ToyTask(), recipe(), folder)
    assert resumed.step == done
    resumed.run()
    assert flat(state(tmp_path / "whole", 6)["weights"]) == flat(state(folder, 6)["weights"])
    assert log_lines(folder) == log_lines(tmp_path / "whole")


def test_nothing_is_kept_before_the_first_step(tmp_path: Path) -> None:
    class Early(ToyTask):
        def batch(self, microbatch: Microbatch) -> Tensor:
            signal.raise_signal(signal.SIGTERM)
            return super().batch(microbatch)

    with pytest.raises(Stopped, match="stopped after step 0; kept: nothing yet"):
        Trainer(Early(), recipe(), tmp_path).run()
    assert not (tmp_path / checkpoint.FOLDER).exists()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    assert exit_code(die_at_the_second_signal, str(tmp_path)) == -signal.SIGTERM
    assert checkpoints(tmp_path) == ["step-00000003.pt"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
def test_a_closed_terminal_costs_no_steps(tmp_path: Path) -> None:
    assert exit_code(lose_the_terminal, str(tmp_path)) == signal.SIGHUP
    assert checkpoints(tmp_path) == ["step-00000003.pt", "step-00000004.pt"]


def test_under_nohup_a_run_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Trainer(SignalledTask("loss", signal.SIGHUP), recipe(), tmp_path).run()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoints(tmp_path) == ["step-00000003.pt", "step-00000006.pt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_that_read_ahead_get_the_signal_too(tmp_path: Path, number: int) -> None:
    write_captioned_folder(tmp_path / "images", 8)
    assert exit_code(stop_with_readers, str(tmp_path / "images"), str(tmp_path / "run"), number) == number
    assert checkpoints(tmp_path / "run") == ["step-00000003.pt", "step-00000004.pt"]


def test_all_processes_stop_at_one_step_whichever_hears_the_signal(tmp_path: Path) -> None:
    results = CONTEXT.Queue()
    arguments = (2, (tmp_path / "rendezvous").as_uri(), str(tmp_path / "run"), results)
    workers = [CONTEXT.Process(target=stop_in_process, args=(rank, *arguments)) for rank in range(2)]
    for worker in workers:
        worker.start()
    said = dict(results.get(timeout=PATIENCE) for _ in workers)
    for worker in workers:
        worker.join(PATIENCE)
        assert worker.exitcode == 0
    assert said == {0: (4, signal.SIGTERM), 1: (4, signal.SIGTERM)}
    assert checkpoints(tmp_path / "run") == ["step-00000003.pt", "step-00000004.pt"]
    Trainer(ToyTask(), recipe(), tmp_path / "run").run()
    Trainer(ToyTask(), recipe(), tmp_path / "whole").run()
    ours, theirs = (state(tmp_path / name, 6)["weights"]["average"] for name in ("run", "whole"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0)


def test_what_a_tokenizer_has_counted_of_its_codes_is_kept(tmp_path: Path) -> None:
    given = tiny_tokenizer_recipe(recipe(steps=7, checkpoint_every=6)).replace(revive_every=3)

    def run(folder: Path, stop_at: int = 0) -> None:
        def on_step(report: Any) -> None:
            if report.step == stop_at:
                signal.raise_signal(signal.SIGINT)

        Trainer(TokenizerTask(given, captioned_images(6)), given, folder, on_step=on_step).run()

    run(tmp_path / "whole")
    with pytest.raises(Stopped, match="stopped after step 4"):
        run(tmp_path / "stopped", stop_at=4)
    run(tmp_path / "stopped")
    assert flat(state(tmp_path / "whole", 7)["weights"]) == flat(state(tmp_path / "stopped", 7)["weights"])
    assert log_lines(tmp_path / "stopped") == log_lines(tmp_path / "whole"), "the codes' use over the whole window"
