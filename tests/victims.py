"""What users hand to the commands, small and sound, and the commands that read it.

Each victim is a folder that is made once; a trial copies it, damages the copy and runs one of its commands there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from command_line import run
from hart.checkpoint.loading import load_model
from hart.checkpoint.lora import add_lora, save_lora
from image_files import numbered, write_captioned_folder
from models import save_tiny_text_model
from set_formats import WRITERS, Entry
from toy_training import tiny_encoded_set

GOLDEN = Path(__file__).parent / "golden"
SEARCHED = ("*.json", "*.safetensors", "*.bin", "*.pth", "*.pt", "*.png", "*.txt", "*.jsonl", "*.tar", "*.parquet",
            "*.toml", "*.npz", "*.cls")  # fmt: skip
"""Files that a trial damages."""
SMALL = "trainer.steps=3 trainer.batch_size=2 trainer.log_every=1 trainer.checkpoint_every=1 trainer.keep_checkpoints=3"


@dataclass(frozen=True)
class Victim:
    """make: fills a folder. commands: argument lists; {} stands for the copy, {model} for a sound model."""

    make: Callable[[Path, Path], None]
    commands: tuple[str, ...]


def succeed(line: str, **places: Path) -> None:
    result = run(*(word.format(**places) for word in line.split()))
    assert result.exit_code == 0, result.output


def _model(folder: Path, model: Path) -> None:
    save_tiny_text_model(folder / "m")


def _hart_layout(folder: Path, model: Path) -> None:
    for part in ("llm", "tokenizer"):
        shutil.copytree(GOLDEN / "t2i-rounds" / part, folder / "m" / part)


def _var_layout(folder: Path, model: Path) -> None:
    (folder / "m").mkdir()
    for name in ("vae.pth", "var.pth", "case.json"):
        shutil.copy(GOLDEN / "var-c2i" / name, folder / "m")


def _adapter(folder: Path, model: Path) -> None:
    hart = add_lora(load_model(model).hart, rank=2, alpha=2, generator=torch.Generator().manual_seed(0))
    save_lora(hart, folder / "adapter", base_model=str(model))


def _images(folder: Path, model: Path) -> None:
    succeed("generate cat --model {m} --out {out}", m=model, out=folder)
    next(folder.glob("*.png")).rename(folder / "own.png")
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    for kind in ("jpeg", "webp", "bmp"):
        Image.effect_noise((40, 30), 60).convert("RGB").save(folder / f"photo.{kind}")


def _captioned(folder: Path, model: Path) -> None:
    write_captioned_folder(folder / "set", 6)
    note = {"captions": ["a cat", "a dog"], "label": 3, "weight": 2.0}
    (folder / "set" / "train" / "0000.json").write_text(json.dumps(note))


def _classes(folder: Path, model: Path) -> None:
    for place in ("cat", "dog"):
        (folder / "set" / place).mkdir(parents=True)
        for number in range(3):
            (folder / "set" / place / f"{number}.png").write_bytes(numbered(number))


def _written(form: str) -> Callable[[Path, Path], None]:
    """Six images in one of the formats."""
    entries = [Entry(f"{n}", numbered(n), {"caption": f"number {n}", "label": n}) for n in range(6)]
    return lambda folder, model: WRITERS[form][0](folder / "set", entries)


def _encoded(folder: Path, model: Path) -> None:
    tiny_encoded_set(folder)
    shutil.rmtree(folder / "model")
    _recipe(folder, model)


def _recipe(folder: Path, model: Path) -> None:
    """A recipe of each stage that trains the tiny model."""
    config = json.loads((model / "config.json").read_text())
    write_captioned_folder(folder / "set", 4)

    def table(name: str, values: Mapping[str, object]) -> str:
        plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
        inner = {key: value for key, value in values.items() if isinstance(value, dict)}
        lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items())]
        return "\n".join(lines + [table(f"{name}.{key}", value) for key, value in inner.items()])

    common = table("optimizer", {"learning_rate": 1e-3}) + "\n"
    common += table("trainer", {"steps": 3, "batch_size": 2, "log_every": 1, "checkpoint_every": 1}) + "\n"
    (folder / "transformer.toml").write_text(
        f'data = "{folder / "set"}"\ntokenizer = "{model}"\ntext_encoder = "{model}"\n'
        + common
        + table("transformer", config["transformer"])
        + "\n"
        + table("diffusion", config["diffusion"])
    )
    (folder / "tokenizer.toml").write_text(
        f'data = "{folder / "set"}"\n' + common + table("tokenizer", config["tokenizer"])
    )


def _run_folder(folder: Path, model: Path) -> None:
    _recipe(folder, model)
    succeed("train transformer {f}/transformer.toml --out {f}/run trainer.keep_checkpoints=3", f=folder)


def _npz(folder: Path, model: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("samples", "reference"):
        np.savez(folder / f"{name}.npz", arr_0=rng.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8))


ENCODE = (
    "data encode {}/set {}/codes --tokenizer {model} --text-encoder {model} --size 8 --batch-size 2 --max-damaged 1"
)
VICTIMS: dict[str, Victim] = {
    "model": Victim(
        _model,
        (
            "generate cat --model {}/m --out {}/out --seed 3",
            "info {}/m",
            "convert {}/m {}/new",
            "generate 1 --random-weights --model {}/m/config.json --out {}/out",
        ),
    ),
    "hart-layout": Victim(_hart_layout, ("info {}/m", "convert {}/m {}/new")),
    "var-layout": Victim(_var_layout, ("generate 1 --model {}/m --out {}/out", "convert {}/m {}/new")),
    "adapter": Victim(_adapter, ("generate cat --model {model} --lora {}/adapter --out {}/out",)),
    "images": Victim(
        _images,
        (
            "generate --like {}/own.png --out {}/out",
            "generate --prompts-file {}/prompts.txt --model {model} --out {}/out",
            "reconstruct {}/own.png {}/photo.jpeg {}/photo.webp {}/photo.bmp --model {model} --out {}/out",
        ),
    ),
    "captioned": Victim(_captioned, (ENCODE,)),
    "classes": Victim(_classes, (ENCODE + " --split all",)),
    "lines": Victim(_written("jsonl"), (ENCODE,)),
    "shards": Victim(_written("shards"), (ENCODE, ENCODE + " --kind stream")),
    "parquet": Victim(_written("parquet"), (ENCODE,)),
    "encoded": Victim(
        _encoded,
        (f"train transformer {{}}/transformer.toml --out {{}}/run data={{}}/codes {SMALL}",),
    ),
    "recipe": Victim(
        _recipe,
        (
            f"train transformer {{}}/transformer.toml --out {{}}/run data={{}}/set {SMALL}",
            f"train tokenizer {{}}/tokenizer.toml --out {{}}/run data={{}}/set {SMALL}",
            "train transformer {}/transformer.toml --dry-run",
        ),
    ),
    "run": Victim(
        _run_folder,
        ("train transformer {}/transformer.toml --out {}/run trainer.keep_checkpoints=3 trainer.steps=4",),
    ),
    "npz": Victim(
        _npz,
        (
            "evaluate imagenet --samples {}/samples.npz --reference {}/reference.npz --features efficientnet-lite0 "
            "--out {}/out --limit 12",
        ),
    ),
}
