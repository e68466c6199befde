"""`hart evaluate cost` through its entry point: counts are those of `hart info`; nothing here depends on time."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import evaluate, figures
from hart.checkpoint.loading import load_config
from hart.config import HartConfig
from hart.evaluation.report import published_tables
from hart.evaluation.suites.cost import printed_macs
from hart.inference.cost import model_cost
from hart.presets import PRESETS, var_imagenet
from helpers import unpadded


@pytest.mark.parametrize(
    ("text", "published"), [(True, "| HART 1024 | 732M |"), (False, "| HART-d20 | 2.39 | 316.4 | 649M |")]
)
def test_counts_and_measures_random_weights(
    text: bool, published: str, text_model: Path, class_model: Path, tmp_path: Path
) -> None:
    model, out = text_model if text else class_model, tmp_path / "out"
    values = figures(
        evaluate("cost", "--model", model, "--random-weights", "--batch-size", 1, "--batch-size", 2, "--warm-up", 0,
                 "--repeats", 2, "--resamples", 2, "--device", "cpu", "--out", out), out
    )  # fmt: skip
    config = load_config(str(model))
    for guided, column in ((True, "GMACs with guidance"), (False, "GMACs without guidance")):
        counted = model_cost(config, guided=guided)
        assert values["figures"]["total"][column]["value"] == counted.total_macs / 1e9
        assert values["figures"]["decoder"][column]["value"] == counted.macs["decoder"] / 1e9
        assert values["figures"]["total"]["parameters, millions"]["value"] == sum(counted.parameters.values()) / 1e6
    assert values["figures"]["total"]["GMACs as the paper seems to count"]["value"] == printed_macs(config) / 1e9
    for batch in (1, 2):
        row = values["figures"][f"batch {batch} (cpu, float32)"]
        assert row["images a second"]["value"] == pytest.approx(batch / row["seconds"]["value"])
    assert values["settings"]["weights"] == "random"
    assert published in unpadded((out / "table.md").read_text())


def test_residual_tokens_can_be_left_out_of_counts_and_times(text_model: Path, tmp_path: Path) -> None:
    """The paper's Table 5: what they cost."""
    out = tmp_path / "out"
    result = evaluate("cost", "--model", text_model, "--random-weights", "--batch-size", 1, "--warm-up", 0, "--repeats",
                      1, "--resamples", 0, "--discrete-only", "--device", "cpu", "--out", out)  # fmt: skip
    rows = figures(result, out)["figures"]
    assert rows["residual diffusion"]["GMACs with guidance"]["value"] == 0
    cost, total = model_cost(load_config(str(text_model))), rows["total"]["GMACs with guidance"]["value"]
    assert total == pytest.approx((cost.total_macs - cost.macs["residual diffusion"]) / 1e9)


TEXT, CLASSES = (published_tables()[name] for name in ("text_cost", "class_to_image"))


def macs(text: str) -> float:
    """ "412G" and "1.4T" as numbers."""
    return float(text[:-1]) * {"G": 1e9, "T": 1e12}[text[-1]]


@pytest.mark.parametrize(
    ("config", "printed"),
    [
        (PRESETS["hart-0.7b-512"](), macs(TEXT.rows["HART 512"][4] + "T")),
        (PRESETS["hart-0.7b-1024"](), macs(TEXT.rows["HART 1024"][7] + "T")),
        *((var_imagenet(d), macs(CLASSES.rows[f"VAR-d{d}"][4])) for d in (20, 24, 30)),
        *((PRESETS[f"hart-imagenet-d{d}-256"](), macs(CLASSES.rows[f"HART-d{d}"][4])) for d in (20, 24, 30)),
    ],
    ids=["text-512", "text-1024", "var-20", "var-24", "var-30", "hart-20", "hart-24", "hart-30"],
)
def test_the_papers_figures_are_those_of_one_convention(config: HartConfig, printed: float) -> None:
    assert printed_macs(config) == pytest.approx(printed, rel=0.025)
