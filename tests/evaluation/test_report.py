"""The files of a result: everything that was measured on stands in them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from hart import __version__
from hart.evaluation.metrics.figures import Figure
from hart.evaluation.report import PublishedTable, Result, figures_table, write_result


def test_files_say_what_was_measured_with_what(tmp_path: Path) -> None:
    result = Result(
        suite="tokenizer",
        title="5 images of 16 px",
        figures={
            "discrete": {"PSNR, dB": Figure(21.23456, 20.1, 22.9), "rKID (net)": Figure(0.00123456, deviation=0.0002)},
            "hybrid": {"PSNR, dB": Figure(30.0)},
        },
        settings={"model": "tiny", "seed": 3, "guidance": None},
        counts={"images": 5, "damaged": 1},
        extractor={"name": "net", "weights_sha256": "0123456789abcdef"},
        notes=("too few",),
        published=(PublishedTable("paper, Table 1", ("rFID",), {"HART": ("0.78",)}),),
        sheets={"sheet.png": Image.new("RGB", (4, 4))},
        lines={"verdicts.jsonl": [{"right": True, "said": "größer"}, {"right": False}]},
    )
    paths = write_result(tmp_path / "new", result, "hart evaluate tokenizer --model tiny")
    assert [path.name for path in paths] == ["figures.json", "table.md", "verdicts.jsonl", "sheet.png"]
    values = json.loads(paths[0].read_text())
    assert values["figures"]["discrete"]["PSNR, dB"] == {"value": 21.23456, "low": 20.1, "high": 22.9}
    assert values["settings"] == {"model": "tiny", "seed": 3, "guidance": None}
    assert values["counts"] == {"images": 5, "damaged": 1}
    assert values["command"] == "hart evaluate tokenizer --model tiny"
    assert values["extractor"]["name"] == "net"
    assert values["environment"]["hart"] == __version__
    assert values["environment"]["packages"]["torch"] and values["environment"]["processor"]
    assert [json.loads(line) for line in paths[2].read_text(encoding="utf-8").splitlines()] == [
        {"right": True, "said": "größer"},
        {"right": False},
    ]
    page = paths[1].read_text()
    for line in (
        "| 5 images of 16 px | PSNR, dB               | rKID (net)          |",
        "| discrete          | 21.23 (20.10 to 22.90) | 0.001235 ± 0.000200 |",
        "| hybrid            | 30.00                  | -                   |",
        "**Note:** too few.",
        "features: net (weights 0123456789ab)",
        "| HART | 0.78 |",
    ):
        assert line in page
    assert "guidance" not in page  # an option that is not given
    assert figures_table(result) in page
