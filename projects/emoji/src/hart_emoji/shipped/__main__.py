"""Trains the shipped model's tokenizer and transformer on one GPU within a given number of minutes.

    python -m hart_emoji.shipped pack data/emoji128 .pack
    PYTHONPATH=src:projects/emoji/src python -m hart_emoji.shipped train .pack --minutes 9 --out OUT --work /tmp/shipped
    python -m hart_emoji.shipped join OUT runs/shipped

`pack` runs where the set is: it turns a set of captioned images, or a folder of vector files, into a few small files.
`train` runs on a bare machine; it needs torch, numpy, pillow, safetensors, tokenizers, accelerate and the pack. It
trains with the project's recipes, the tokenizer first, with all data on the device. Every minute it writes averaged
weights in files below 16 MiB, logs and sample images. WORK holds checkpoints: the same command continues from them.
`--from OUT` starts from the output of another run. `join` makes a model's folder from OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from hart import HartError
from hart.evaluation import contact_sheet
from hart_emoji import RECIPES

if TYPE_CHECKING:
    from hart_emoji.shipped.stages import Job

STAGES = ("tokenizer", "transformer")
FIRST_STEP = 240.0
"""Seconds for a stage's first step once its data is encoded; if it takes longer, it runs again without compiling."""
REPORT = "train_shipped.json"


def train(parsed: argparse.Namespace) -> None:
    """Run the stages one after the other, each in its own process; with `parsed.stage`, be such a process."""
    if parsed.stage is not None:
        sys.path.append(str(parsed.pack / "site"))  # the pack has the network for machines that lack it
        from hart_emoji.shipped import stages

        stages.run_stage(job_of(parsed, parsed.stage), parsed.stage)
        return
    check(parsed)
    start = time.time()
    end = start + 60 * parsed.minutes
    parsed.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"arguments": parsed.arguments, "minutes": parsed.minutes, "stages": {}}
    share = parsed.tokenizer_share
    deadlines = {"tokenizer": start + share * (end - start), "transformer": end}
    if parsed.start_from is not None:
        from hart_emoji.shipped.weights import join

        parsed.start_from = join(parsed.start_from, parsed.work / "start")
        if share == 0:
            from hart.checkpoint import load_tokenizer, save_tokenizer

            save_tokenizer(parsed.work / "tokenizer" / "model", load_tokenizer(parsed.start_from))
    for stage in STAGES[share == 0 :]:
        record["stages"][stage] = outcome = run_stage(parsed, stage, deadlines[stage])
        write_report(parsed, record)
        sys.stdout.write(f"{stage}: {outcome}\n")
        if not (parsed.work / stage / "model").exists():
            said = "\n".join(record["log"])
            raise SystemExit(f"{said}\n{stage}: no model was written")


def check(parsed: argparse.Namespace) -> None:
    """Raise `HartError` for errors that would stop a stage, before the time starts to count."""
    from hart.checkpoint import read_safetensors
    from hart_emoji.shipped.pack import IMAGES
    from hart_emoji.shipped.stages import tokenizer_recipe, transformer_recipe

    if not (parsed.pack / IMAGES).is_file():
        raise HartError(f"{parsed.pack}: there is no pack: make one with python -m hart_emoji.shipped pack SET PACK")
    wanted = tokenizer_recipe(job_of(parsed, "tokenizer")).tokenizer.image_size
    transformer_recipe(job_of(parsed, "transformer"))
    if (size := int(read_safetensors(parsed.pack / IMAGES)["size"])) != wanted:
        raise HartError(
            f"{parsed.pack}: images of {size} px, and the recipe is for {wanted}: pack with --size {wanted}"
        )


def run_stage(parsed: argparse.Namespace, stage: str, deadline: float) -> dict[str, Any]:
    """Train a stage as its recipe says until `deadline` (by `time.time`); if that fails, retry without compiling."""
    folder, begun = parsed.work / stage, time.time()
    folder.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    for eager in [False, True] if parsed.compile else [True]:
        for sign in ("prepared", "started"):
            (folder / sign).unlink(missing_ok=True)
        status = run_process(parsed, stage, deadline, eager)
        if status == "done" or eager or deadline - time.time() < 20:
            break
        notes.append(f"{status}; run again without torch.compile")
    plan = folder / "plan.json"
    return {
        "outcome": status,
        "seconds": round(time.time() - begun, 1),
        "notes": notes,
        "plan": json.loads(plan.read_text(encoding="utf-8")) if plan.exists() else {},
    }


def run_process(parsed: argparse.Namespace, stage: str, deadline: float, eager: bool) -> str:
    """Run one process of a stage; return "done" or how it ended. eager: do not compile, whatever the recipe says."""
    command = [sys.executable, "-m", "hart_emoji.shipped", *parsed.arguments, "--stage", stage]
    command += ["--deadline", str(deadline), *(["--no-compile"] if eager else [])]
    command += ["--from", str(parsed.start_from)] if parsed.start_from is not None else []
    prepared, started = (parsed.work / stage / sign for sign in ("prepared", "started"))
    with (parsed.work / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        while process.poll() is None:
            time.sleep(0.2)
            over = time.time() > deadline + parsed.grace
            waited = time.time() - prepared.stat().st_mtime if prepared.exists() and not started.exists() else 0.0
            stuck = not eager and waited > FIRST_STEP
            if over or stuck:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return "stopped: its time was over" if over else f"no step within {FIRST_STEP:.0f} s"
    return "done" if process.returncode == 0 else f"ended with status {process.returncode}"


def write_report(parsed: argparse.Namespace, record: dict[str, Any]) -> None:
    """Write what was done, the end of the processes' output, and one sheet of samples."""
    log = (parsed.work / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    record["log"] = [line[:300] for line in log if line.strip()][-40:]
    (parsed.out / REPORT).write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
    samples = [newest[-1] for stage in STAGES if (newest := sorted((parsed.work / stage / "samples").glob("*.png")))]
    if samples:
        images = [[Image.open(path).convert("RGB")] for path in samples]
        contact_sheet(images, [path.parent.parent.name for path in samples]).save(parsed.out / "samples.png")


def job_of(parsed: argparse.Namespace, stage: str) -> Job:
    import torch

    from hart_emoji.shipped.stages import Job

    return Job(
        parsed.pack,
        parsed.work,
        parsed.out,
        parsed.recipes,
        torch.device(parsed.device),
        parsed.deadline or 0.0,
        (*getattr(parsed, stage), *([] if parsed.compile else ["trainer.compile=false"])),
        parsed.perceptual,
        "" if parsed.start_from is None else str(parsed.start_from),
    )


def pack(parsed: argparse.Namespace) -> None:
    from hart_emoji.shipped.pack import write_pack

    sizes, damaged = write_pack(parsed.source, parsed.pack, split=parsed.split, size=parsed.size)
    for name, size in sizes.items():
        sys.stdout.write(f"{size:>12,}  {name}\n")
    sys.stdout.write(f"{sum(sizes.values()) / 2**20:.1f} MiB in {parsed.pack}\n")
    if damaged:
        first = "; ".join(map(str, damaged[:3]))
        sys.stderr.write(f"left out {len(damaged)} images that cannot be read ({first})\n")


def join_files(parsed: argparse.Namespace) -> None:
    from hart_emoji.shipped.weights import join

    sys.stdout.write(f"{join(parsed.out, parsed.model)}\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m hart_emoji.shipped", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="pack a set into a few small files")
    packing.add_argument("source", help="any set that `hart train` reads, or a folder of vector files only")
    packing.add_argument("pack", type=Path, help="folder to write")
    packing.add_argument("--split", default="train", help="split of the set")
    packing.add_argument("--size", type=int, default=128, help="size of the images in pixels")
    packing.set_defaults(run=pack)
    training = commands.add_parser("train", help="train both stages")
    training.add_argument("pack", type=Path, help="what `pack` wrote")
    training.add_argument(
        "--out", type=Path, required=True, help="folder for weights, logs and samples, in small files"
    )
    training.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints; the same command continues from them"
    )
    training.add_argument("--recipes", type=Path, default=RECIPES, help="folder with both recipes")
    training.add_argument("--device", default="cuda", help="cuda, or cpu to try it out")
    training.add_argument(
        "--no-perceptual", dest="perceptual", action="store_false", help="leave the perceptual loss out"
    )
    training.add_argument("--from", dest="start_from", type=Path, help="OUT of another run to start from")
    training.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    training.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    training.add_argument(
        "--minutes", type=float, required=True, help="minutes for both stages together, everything included"
    )
    training.add_argument(
        "--tokenizer-share", type=float, default=0.4, help="the tokenizer's share of the time; 0 keeps that of --from"
    )
    training.add_argument("--grace", type=float, default=15.0, help="seconds by which a stage may exceed its time")
    training.add_argument(
        "--no-compile", dest="compile", action="store_false", help="do not use torch.compile, whatever the recipes say"
    )
    for name in STAGES:
        training.add_argument(
            f"--{name}", action="append", default=[], metavar="KEY=VALUE", help=f"change a setting of {name}.toml"
        )
    training.set_defaults(run=train)
    joining = commands.add_parser("join", help="make a model's folder from OUT")
    joining.add_argument("out", type=Path, help="OUT of `train`")
    joining.add_argument("model", type=Path, help="folder to write")
    joining.set_defaults(run=join_files)
    parsed = parser.parse_args(arguments)
    parsed.arguments = arguments
    if parsed.run is train:
        if not 0 <= parsed.tokenizer_share < 1:
            parser.error("--tokenizer-share must be from 0 to below 1")
        if parsed.tokenizer_share == 0 and parsed.start_from is None:
            parser.error("--tokenizer-share 0 keeps the tokenizer of --from, which is missing")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed.run(parsed)
    except HartError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
