"""The commands of the README, one after the other in one process, with `sitecustomize` beside this file in force.

Prints a line of JSON for each: its name, its exit code, and the last line that it said.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

FOLDER = Path(sys.argv[1])


def command(name: str, *arguments: object) -> None:
    from typer.testing import CliRunner

    from hart.cli import app

    result = CliRunner().invoke(app, [str(argument) for argument in (*name.split(), *arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    said = f"{result.stdout}{result.stderr}".splitlines() or [""]
    tell(name, result.exit_code, said[-1])


def tell(name: str, code: int, said: str) -> None:
    sys.stdout.write(f"{json.dumps({'command': name, 'code': code, 'said': said})}\n")
    sys.stdout.flush()


def with_model_and_images() -> tuple[Path, Path]:
    from image_files import encoded_image
    from models import save_tiny_text_model

    images = FOLDER / "images"
    images.mkdir()
    for number in range(6):
        (images / f"{number}.png").write_bytes(encoded_image((40 * number, 100, 200 - 30 * number), (16, 16)))
        (images / f"{number}.txt").write_text(f"a {number}", encoding="utf-8")
    model = FOLDER / "model"
    model.mkdir()
    return save_tiny_text_model(model), images


def images_and_models(model: Path, images: Path) -> None:
    out = FOLDER / "out"
    command("generate", "CON", "a: <b> \\ c?*.", "nul", "--model", model, "--out", out, "--grid")
    first = out / "000-con-0.png"
    command("generate", "--like", first, "--out", out)
    command("edit", first, "a heart", "--size", "48x32", "--out", out)
    command("vary", first, "--out", out)
    command("mix", "CON", "aux", "--model", model, "--out", out)
    command("reconstruct", images / "0.png", "--model", model, "--out", out)
    command("info", model)
    prompts = FOLDER / "prompts.txt"
    prompts.write_text("CON\naux.png\nlpt1.\n", encoding="utf-8")
    job = "generate", "--prompts-file", prompts, "--model", model, "--out", FOLDER / "job", "--workers", 2
    command(*job)
    damaged = FOLDER / "job" / "00000-con-0.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    command(*job)

    from hart.pipeline import HartPipeline

    copy = FOLDER / "copy"
    command("convert", model, copy)
    pipe = HartPipeline.from_pretrained(copy)
    command("convert", model, copy)  # onto a model that is open
    try:
        (copy / "tokenizer.safetensors").unlink()
    except PermissionError:
        tell("remove", 2, "it is open")
    pipe.save_pretrained(FOLDER / "saved")


def training(model: Path, images: Path) -> None:
    from toy_training import recipe, tiny_tokenizer_recipe, tiny_transformer_recipe

    given = recipe(data=str(images), steps=4, batch_size=2, checkpoint_every=2, keep_checkpoints=1, log_every=1)
    for stage, one in (
        ("tokenizer", tiny_tokenizer_recipe(given)),
        ("transformer", tiny_transformer_recipe(given, model)),
    ):
        file = FOLDER / f"{stage}.json"
        file.write_text(one.to_json(), encoding="utf-8")
        run = f"train {stage}", file, "reading.workers=1", "reading.memory_gb=0", "--out", FOLDER / stage
        command(*run, "trainer.steps=2")
        command(*run, "reading.workers=0", "--accept-changes")  # longer than it was
    from hart.pipeline import HartPipeline

    pipe = HartPipeline.from_pretrained(FOLDER / "transformer" / "model")
    command(*run, "trainer.steps=6", "reading.workers=0", "--accept-changes")  # writes a model that is open
    del pipe
    command(*run, "trainer.steps=6", "reading.workers=0", "--accept-changes")
    codes = FOLDER / "codes"
    encode = "data encode", images, codes, "--tokenizer", model, "--text-encoder", model, "--shard-size", 3
    command(*encode, "--workers", 1)
    file = FOLDER / "codes.json"
    file.write_text(tiny_transformer_recipe(given, model).replace(data=str(codes)).to_json(), encoding="utf-8")
    command("train transformer", file, "trainer.steps=2", "reading.workers=1", "--out", FOLDER / "of codes")
    command(*encode)  # while the set is open
    command(
        "evaluate tokenizer",
        "--model",
        model,
        "--data",
        images,
        "--split",
        "train",
        "--size",
        16,
        "--out",
        FOLDER / "figures",
    )


def serving(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def stop() -> None:
        while True:
            time.sleep(0.5)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).close()
            except OSError:  # also the status while the model is being opened, in a thread that this process outlives
                continue
            signal.raise_signal(signal.SIGINT)
            return

    threading.Thread(target=stop, daemon=True).start()
    command("serve", "--model", model, "--port", port)


def main() -> None:
    model, images = with_model_and_images()
    wanted = sys.argv[2:] or ["images", "training", "serving"]
    if "images" in wanted:
        images_and_models(model, images)
    if "training" in wanted:
        training(model, images)
    if "serving" in wanted:
        serving(model)


if __name__ == "__main__":
    main()
