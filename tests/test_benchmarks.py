"""The programs of `benchmarks/` run from their arguments and print their figures."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hart.checkpoint.loading import save_tokenizer
from hart.config import TokenizerConfig
from hart.errors import HartError
from hart.evaluation.metrics.features import LITE_IMAGE_SIZES
from hart.inference.kernels import int8_range
from hart.losses.transformer_loss import sample_last_positions
from hart.randomness import generator_for
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from helpers import TEXT_TOKENS, TEXT_WIDTH, randomize, tiny_text_config
from image_files import write_captioned_folder
from models import save_tiny_text_model

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_every_script_finds_what_it_uses(script: str) -> None:
    import_module(script)


def test_an_error_is_one_line(tmp_path: Path) -> None:
    levels, running = map(import_module, ("levels", "running"))
    with pytest.raises(SystemExit, match=r"^error: .*none/concepts\.json: no such file"):
        running.run_program(lambda: levels.main(["--data", str(tmp_path / "none")]))


@pytest.mark.skipif(not int8_range(), reason="this processor has no 8-bit kernels")
def test_levels_are_compared_in_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = import_module("levels")
    config = tmp_path / "config.json"
    config.write_text(tiny_text_config(width=256, heads=4).to_json())
    levels.main(["--random-weights", str(config)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    plain, bfloat16, int8 = (float(row[1]) for row in rows)
    assert plain < 1e-4 < bfloat16 < int8 < 0.2


def test_images_that_are_the_same_have_no_decibels() -> None:
    levels, one = import_module("levels"), torch.full((3, 3, 4, 4), 0.5)
    assert levels.decibels(one + 0.1, one) == pytest.approx(20, abs=1e-4)
    assert levels.decibels(one, one) is None


def test_curves_of_runs_become_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = import_module("curves")
    assert curves.running_mean(np.array([2.0, 4.0, 9.0, 11.0]), 2).tolist() == [2, 3, 6.5, 10]
    for run, figures in (("a", {"loss": 2.0}), ("b", {"loss": 1.0, "accuracy": 0.5})):
        (tmp_path / run).mkdir()
        lines = [json.dumps({"step": step, **figures}) for step in (10, 20)]
        (tmp_path / run / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    runs, out = [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "curves.png"
    curves.main([*runs, "--figure", "loss", "accuracy", "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        assert image.width > 2 * image.height
    with pytest.raises(HartError, match="none of the runs has the figure 'typo'"):
        curves.main([*runs, "--figure", "typo", "--out", str(out)])
    with pytest.raises(HartError, match=r"metrics\.jsonl: no such file"):
        curves.main([str(tmp_path / "c")])


def test_results_of_tokenizers_become_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reconstructions = import_module("reconstructions")
    for name, value, more in (("small", 21.5, {}), ("large", 25.25, {"rFID (x)": {"value": 3.0}})):
        (tmp_path / name).mkdir()
        kinds = {"discrete": {"PSNR": {"value": value, "low": 20.0, "high": 26.0}} | more, "hybrid": {}}
        result = {"suite": "tokenizer", "settings": {"size": 128}, "counts": {"images": 9}, "figures": kinds}
        (tmp_path / name / "figures.json").write_text(json.dumps(result), encoding="utf-8")
    reconstructions.main([str(tmp_path / "small"), str(tmp_path / "large")])
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()
    )
    assert head == ["", "latent", "px", "images", "PSNR", "rFID (x)"]
    assert rows == [
        ["small", "discrete", "128", "9", "21.50 (20.00 to 26.00)", "-"],
        ["small", "hybrid", "128", "9", "-", "-"],
        ["large", "discrete", "128", "9", "25.25 (20.00 to 26.00)", "3.000"],
        ["large", "hybrid", "128", "9", "-", "-"],
    ]
    namesake = shutil.copytree(tmp_path / "small", tmp_path / "other" / "small")
    reconstructions.main([str(tmp_path / "small"), str(namesake)])
    told = capsys.readouterr().out
    assert str(tmp_path / "small") in told and str(namesake) in told
    (tmp_path / "small" / "figures.json").write_text(json.dumps({"suite": "generation"}), encoding="utf-8")
    with pytest.raises(HartError, match="of the suite generation"):
        reconstructions.main([str(tmp_path / "small")])


def tiny_ablations_recipe(folder: Path) -> Path:
    """A recipe of images of 64 px beside the tokenizer and the text encoder that it names."""
    sizes = TokenizerConfig((1, 2, 3, 5, 8), 8, (1,) * 4, 1, norm_groups=4, latent_channels=4, codebook_size=16)
    tokenizer = HybridTokenizer(sizes)
    randomize(tokenizer)
    save_tokenizer(folder / "tokenizer", tokenizer)
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"""
        data = ""
        tokenizer = {json.dumps(str(folder / "tokenizer"))}
        text_encoder = {json.dumps(str(save_tiny_text_model(folder / "text")))}
        [transformer]
        scales = {list(sizes.scales)}
        latent_channels = 4
        codebook_size = 16
        width = 32
        depth = 1
        heads = 2
        [transformer.text]
        width = {TEXT_WIDTH}
        tokens = {TEXT_TOKENS}
        [diffusion]
        width = 16
        depth = 1
        sampling_steps = 2
        [trainer]
        steps = 400
        batch_size = 4
        [optimizer]
        learning_rate = 1e-3
        """,
        encoding="utf-8",
    )
    return recipe


@pytest.mark.slow
def test_ablations_are_trained_and_measured_one_call_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablations = import_module("ablations")
    monkeypatch.setattr(ablations, "RECIPE", tiny_ablations_recipe(tmp_path))
    monkeypatch.setitem(LITE_IMAGE_SIZES, 0, 64)
    data, other = tmp_path / "images", tmp_path / "other"
    write_captioned_folder(data, 6)
    write_captioned_folder(other, 4)
    (other / "train").rename(data / "val")
    options = ["--out", str(tmp_path / "runs"), "--steps", "4", "--limit", "4"]
    for runs in (["hybrid", "128-from-64"], ["discrete"]):
        ablations.main([str(data), str(data), *options, "--runs", *runs])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][-5:]
    header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line)
    cells = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(cells) == ["hybrid", "discrete", "128-from-64"]
    entropies = {name: [k for k in range(7) if row[f"cross_entropy_{k}"] != "-"] for name, row in cells.items()}
    assert entropies == {"hybrid": list(range(5)), "discrete": list(range(5)), "128-from-64": list(range(7))}
    assert [row["diffusion_mse"] != "-" for row in cells.values()] == [True, False, True]
    assert all(row["images/s"] != "-" for row in cells.values())


def test_the_ablation_at_the_doubled_resolution_drops_what_the_paper_drops(tmp_path: Path) -> None:
    runs = {run.name: run.recipe for run in import_module("ablations").variants("", "", None, tmp_path)}
    one, other = runs["128-scratch"], runs["128-all-tokens"]
    assert one == other.replace(drop_last_scale=True)
    tokens = one.transformer.schedule.token_counts[-1]
    kept = [sample_last_positions(1, tokens, generator_for(0, "last scale", step)).shape[1] for step in range(400)]
    assert np.mean(kept) / tokens == pytest.approx(0.2, abs=0.02)


def test_a_row_of_points_that_are_all_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And none of an earlier run, which may have been on another machine, stands under this one's name."""
    scaling = import_module("scaling")
    monkeypatch.setattr(scaling, "measured", lambda point, *_: vars(point) | dict.fromkeys(
        ("tokens", "gflop", "seconds", "gib"), 1.0
    ))  # fmt: skip
    out = tmp_path / "scaling.json"
    options = ["--out", str(out), "--plot", str(tmp_path / "scaling.png"), "--device", "cpu", "--largest", "256"]
    scaling.main([*options, "--series", "batch"])
    scaling.main([*options, "--series", "squares", "wide images"])
    results = json.loads(out.read_text())
    assert list(results["series"]) == ["squares"] and len(results["series"]["squares"]) == 1
    assert results["commands"]["squares"].endswith("--series squares 'wide images'")
