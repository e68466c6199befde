"""`hart evaluate cost` through its entry point: counts are those of `hart info`; nothing here depends on time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hart.checkpoint.loading import load_config
from hart.cli import app
from hart.cost import model_cost
from models import save_tiny_class_model, save_tiny_text_model


@pytest.mark.parametrize(
    ("text", "published"), [(True, "| HART 1024 | 732M |"), (False, "| HART-d20 | 2.39 | 316.4 | 649M |")]
)
def test_counts_and_measures_random_weights(text: bool, published: str, tmp_path: Path) -> None:
    model = (save_tiny_text_model if text else save_tiny_class_model)(tmp_path / "model")
    out = tmp_path / "out"
    arguments = ["cost", "--model", str(model), "--random-weights", "--batch-size", "1", "--batch-size", "2",
                 "--warm-up", "0", "--repeats", "2", "--resamples", "2", "--device", "cpu", "--out",
                 str(out)]  # fmt: skip
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    values = json.loads((out / "figures.json").read_text())
    config = load_config(str(model))
    for guided, column in ((True, "GMACs with guidance"), (False, "GMACs without guidance")):
        counted = model_cost(config, guided=guided)
        assert values["figures"]["total"][column]["value"] == counted.total_macs / 1e9
        assert values["figures"]["decoder"][column]["value"] == counted.macs["decoder"] / 1e9
        assert values["figures"]["total"]["parameters, millions"]["value"] == counted.total_parameters / 1e6
    for batch in (1, 2):
        row = values["figures"][f"batch {batch} (cpu, float32)"]
        assert row["pictures a second"]["value"] == pytest.approx(batch / row["seconds"]["value"])
    assert values["settings"]["weights"] == "random"
    assert published in (out / "table.md").read_text()
