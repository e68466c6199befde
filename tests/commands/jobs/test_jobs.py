"""`hart generate --prompts-file`: one file a prompt and seed, none twice, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import job_processes
from command_line import outputs, refused, run
from hart import HartPipeline, SamplingConfig, __version__
from hart.commands.jobs import running, workers
from hart.commands.jobs.job import Job
from hart.commands.jobs.workers import by_workers
from hart.commands.options import GenerateOptions
from hart.config import MAX_SEED
from hart.generation.metadata import ImageRecord, ImageSettings
from processes import CONTEXT, ON_RAY, require_ray, started
from waiting import until

PROMPTS = ("a cat", "a dog", "a house", "a tree", "a red apple", "a hat")
NAMES = [
    "00000-a-cat-3.png", "00001-a-dog-4.png", "00002-a-house-5.png", "00003-a-tree-6.png", "00004-a-red-apple-7.png",
    "00005-a-hat-8.png",
]  # fmt: skip


def arguments(prompts: Path, model: Path) -> tuple[Any, ...]:
    return "generate", "--prompts-file", prompts, "--seed", 3, "--model", model, "--out"


@pytest.fixture
def job(text_model: Path, tmp_path: Path) -> tuple[Any, ...]:
    """Arguments of a job, but for its folder."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return arguments(tmp_path / "prompts.txt", text_model)


@pytest.fixture(scope="module")
def finished(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without accidents."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    done = run(*arguments(folder / "prompts.txt", text_model), folder / "whole")
    assert [path.name for path in outputs(done)] == NAMES
    return folder / "whole"


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> dict[str, bytes]:
    """Its files, which are in the folder `whole`."""
    shutil.copytree(finished, tmp_path / "whole")
    return images(finished)


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def places(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written once more."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.png")}


def with_workers(monkeypatch: pytest.MonkeyPatch, work: Callable[..., None]) -> None:
    """Processes that start at once do the work."""
    monkeypatch.setattr(workers, "CONTEXT", CONTEXT)
    monkeypatch.setattr(running, "by_workers", partial(by_workers, work=work))


def test_images_are_those_of_a_call(
    job: tuple[Any, ...], whole: dict[str, bytes], text_model: Path, tmp_path: Path
) -> None:
    expected = HartPipeline.from_pretrained(text_model, device="cpu")(list(PROMPTS), seed=3)
    for name, image in zip(NAMES, expected.images, strict=True):
        with Image.open(tmp_path / "whole" / name) as file:
            assert file.tobytes() == image.tobytes()
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {*NAMES, "job.json"}


@pytest.mark.slow
def test_a_killed_worker_has_its_work_given_to_another(
    job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_workers(monkeypatch, job_processes.killed_once)
    out = tmp_path / "out"
    written = outputs(run(*job, out, "--workers", 2))
    assert (tmp_path / "killed").exists()
    assert sorted(path.name for path in written) == NAMES  # each is written once
    assert images(out) == whole
    assert {path.name for path in out.iterdir()} == {*NAMES, "job.json"}


@pytest.mark.slow
def test_what_kills_every_worker_is_left_out_and_reported(
    job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_workers(monkeypatch, job_processes.killed_always)
    result = run(*job, tmp_path / "out", "--workers", 2)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: {tmp_path / 'out'}: lacks 1 of 6 images: 3 processes each were killed while they generated "
        '"a dog"; the others are there'
    ]
    assert images(tmp_path / "out") == {name: whole[name] for name in NAMES if name != NAMES[job_processes.VICTIM]}


def test_workers_that_end_at_the_start_are_not_started_for_ever(
    job: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_workers(monkeypatch, job_processes.killed_at_start)
    assert "exit code -9" in refused(run(*job, tmp_path / "out", "--workers", 2))


@dataclass
class Begun:
    """The command in a process group of its own."""

    process: ForkServerProcess
    errors: Path

    @property
    def group(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def ended(self) -> tuple[int | None, str]:
        """Its exit code, and what it said on standard error."""
        self.process.join()
        return self.process.exitcode, self.errors.read_text()


def begun(job: tuple[Any, ...], out: Path) -> Begun:
    """When all images but one are there and one worker is stuck."""
    errors = out.with_suffix(".errors")
    command = [*map(str, job), str(out), "--workers", "2"]
    process = CONTEXT.Process(target=job_processes.stuck_command, args=(command, str(errors)))
    process.start()

    def all_but_one() -> bool:
        assert process.is_alive(), errors.read_text()
        return len(list(out.glob("*.png"))) == len(NAMES) - 1

    until(all_but_one)
    return Begun(process, errors)


def has_ended(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along_and_the_same_command_continues(
    job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = begun(job, out)
    command.process.kill()
    command.ended()
    until(lambda: has_ended(command.group))
    there = places(out)
    assert len(there) == len(NAMES) - 1
    result = run(*job, out)
    assert result.stdout.split() == [str(out / NAMES[job_processes.VICTIM])]
    assert result.stderr == f"note: already in {out}: 5 of 6 images\n"
    assert images(out) == whole
    assert there.items() <= places(out).items()
    assert {path.name for path in out.iterdir()} == {*NAMES, "job.json"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_says_how_to_continue(job: tuple[Any, ...], tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    command = begun(job, out)
    os.killpg(command.group, number)  # as a terminal does
    assert command.ended() == (128 + number, f"stopped: 5 of 6 in {out}; the same command continues\n")
    until(lambda: has_ended(command.group))
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_a_cluster_makes_the_same_files_though_a_worker_is_killed(
    job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    with started(*job, out, "--ray", "--workers", 2, main=job_processes.on_a_cluster, **ON_RAY) as command:
        printed = command.said[0].read()
        require_ray(command)
        assert command.wait() == 0
    assert (tmp_path / "killed").exists()
    assert sorted(Path(line).name for line in printed.split()) == NAMES
    assert images(out) == whole


def test_damaged_files_are_made_again_and_others_left_alone(
    job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    (out / NAMES[0]).write_bytes(whole[NAMES[0]][:100])
    (out / NAMES[2]).write_bytes(b"")
    (out / NAMES[4]).unlink()
    before = places(out)
    assert run(*job, out).stdout.split() == [str(out / NAMES[i]) for i in (0, 2, 4)]
    assert images(out) == whole
    after = places(out)
    assert all(after[NAMES[i]] == before[NAMES[i]] for i in (1, 3, 5))


def test_an_image_of_a_batch_is_the_same_whatever_was_there(job: tuple[Any, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(*job, out, "--batch-size", 4)
    first = images(out)
    (out / NAMES[2]).unlink()
    assert run(*job, out, "--batch-size", 4).stdout.split() == [str(out / NAMES[2])]
    assert images(out) == first


def test_a_finished_job_opens_no_model(
    job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HartPipeline, "from_pretrained", lambda *_, **__: pytest.fail("opened"))
    result = run(*job, tmp_path / "whole", "--workers", 2)
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_folder_holds_one_job(job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path) -> None:
    out, prompts = tmp_path / "whole", tmp_path / "prompts.txt"
    for changed, said in (
        (("--seed", 4), "another job (seed: 3, now 4): give another folder by --out"),
        (("--guidance", 1.5), "another job (guidance scale: "),
        (("--negative-prompt", "a cat"), "another job (negative prompt: None, now 'a cat')"),
        (("-n", 2), "another job (images per prompt: 1, now 2)"),
        (("--dtype", "bfloat16"), "another job (dtype: "),
    ):
        assert said in refused(run(*job, out, *changed))
    said = ("-n", 1, "--batch-size", 1, "--size", 8, "--aspect", "1:1", "--device", "cpu", "--dtype", "float32")
    more = ("--speed", "exact", "--cache", "model", "--negative-prompt", "", "--top-p", 1, "--no-discrete-only")
    done = run(*job, out, *said, *more)  # the defaults: nothing is generated anew
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"note: already in {out}: 6 of 6 images\n")
    for lines, said in (
        ((*PROMPTS[:-1], "a boat"), "another job (prompt 6: 'a hat', now 'a boat')"),
        ((*PROMPTS, "a boat"), "another job (number of prompts: 6, now 7)"),
    ):
        prompts.write_text("\n".join(lines))
        assert said in refused(run(*job, out))
    prompts.write_text("\n".join(PROMPTS))
    (out / NAMES[1]).write_bytes((out / NAMES[0]).read_bytes())
    assert "was made with something else" in refused(run(*job, out))
    (out / "job.json").unlink()
    assert "no job.json says what it was made with: give another folder" in refused(run(*job, out))
    assert images(out).keys() == whole.keys()


@pytest.mark.parametrize("command", [("generate", "a cat"), ("edit", ""), ("vary", ""), ("mix", "a cat", "a dog")])
def test_other_commands_write_nothing_into_the_folder_of_a_job(command: tuple[str, ...], finished: Path) -> None:
    given = set(finished.iterdir())
    words = [text or finished / NAMES[0] for text in command]
    said = refused(run(*words, "--out", finished))
    assert said == f"error: --out {finished}: belongs to the job that its job.json describes: choose another folder"
    assert set(finished.iterdir()) == given


def test_without_a_folder_a_job_has_one_of_its_own_beside_other_images(
    job: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = outputs(run(*job[:-1]))
    assert {path.parent for path in named} == {Path("outputs/prompts")}
    (sent,) = outputs(run("generate", "--prompts-file", "-", *job[3:-1], sent=b"a cat"))
    assert sent.parent == Path("outputs/standard-input")
    (other,) = outputs(run("generate", "a cat", *job[3:-1]))
    assert other == Path("outputs/000-a-cat-3.png")
    (tmp_path / "dots").mkdir()
    monkeypatch.chdir(tmp_path / "dots")
    Path("...txt").write_text("a cat")
    (unnamed,) = outputs(run("generate", "--prompts-file", "...txt", *job[3:-1]))
    assert unnamed.parent == Path("outputs/prompts")


def test_a_grid_shows_the_images_of_all_runs(job: tuple[Any, ...], whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "whole" / NAMES[3]).unlink()
    made, sheet = run(*job, tmp_path / "whole", "--grid").stdout.split()
    assert Path(made).name == NAMES[3] and Path(sheet).name == "grid-a-cat-3.png"
    with Image.open(sheet) as image:
        assert [each["seed"] for each in json.loads(image.info["images"])] == [3, 4, 5, 6, 7, 8]


def test_what_the_model_cannot_do_is_said_once(
    job: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_workers(monkeypatch, workers.serve)
    assert "size 9" in refused(run(*job, tmp_path / "out", "--size", 9, "--workers", 2))
    assert not (tmp_path / "out").exists(), "a command that refuses leaves no folder"
    assert len(outputs(run(*job, tmp_path / "out"))) == len(NAMES)  # nothing was begun
    for option in (("--workers", 2), ("--ray",)):
        assert "--prompts-file" in refused(run("generate", "a cat", *option))


def test_what_every_worker_comes_upon_is_said_once(
    job: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_workers(monkeypatch, workers.serve)
    options = ("--negative-prompt", "a \u043a\u043e\u0442", "--aspect", "2:1")
    for count in (1, 2):
        lines = run(*job, tmp_path / str(count), *options, "--workers", count).stderr.splitlines()
        assert len(lines) == 2 and all(line.startswith("note: ") for line in lines)
        assert "was trained at" in lines[0] and 'does not know "\u043a\u043e\u0442"' in lines[1]


def test_the_best_of_several_is_named_after_the_first_of_their_seeds() -> None:
    settings = ImageSettings(sampling=SamplingConfig(), size=8, device="cpu", dtype="float32")
    job = Job(GenerateOptions(prompts=PROMPTS[:2], model="emoji", seed=5, best_of=3), settings)
    assert [job.name(image) for image in range(job.count)] == ["00000-a-cat-5.png", "00001-a-dog-8.png"]
    records = {seed: ImageRecord("a cat", seed, "emoji", settings, __version__) for seed in range(4, 10)}
    assert [seed for seed, record in records.items() if job.made(0, record)] == [5, 6, 7]


def test_a_gpu_takes_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    cuda = torch.device("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert running.environments(cuda, None) == [{"CUDA_VISIBLE_DEVICES": number} for number in "012"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,GPU-3f")
    assert running.environments(cuda, 2) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("7", "5")]
    assert len(running.environments(torch.device("cuda:1"), None)) == 1
    with pytest.raises(ValueError, match="sees 3"):
        running.environments(cuda, 4)


def test_what_the_last_image_cannot_be_is_said_before_the_first(text_model: Path, tmp_path: Path) -> None:
    job = ("generate", "--prompts-file", "-", "--model", text_model, "--out", tmp_path)
    assert "prompt 2 holds a null byte" in refused(run(*job, sent=b"a cat\na\0dog"))
    assert f"at most {MAX_SEED - 1}" in refused(run(*job, "--seed", MAX_SEED, "-n", 2, sent=b"a cat\n"))
    assert not list(tmp_path.iterdir())


def test_a_prompt_is_a_line_as_editors_count_them(text_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffa cat\r\n\r\n \t\r\na dog\u2028or a\x0c fox\x85\ra tree".encode())
    done = run(*arguments(prompts, text_model), tmp_path / "out")
    assert [path.name for path in outputs(done)] == [NAMES[0], "00001-a-dog-or-a-fox-4.png", "00002-a-tree-5.png"]
