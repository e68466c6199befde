"""Scores by task as GenEval's authors printed them (arXiv 2310.11513), for the table of the suite `geneval`."""

from __future__ import annotations

from hart.evaluation.report import PublishedTable

GENEVAL = PublishedTable(
    source="GenEval, main results: share of right pictures by mmdetection's Mask2Former and CLIP ViT-L/14",
    columns=("CLIP retrieval", "minDALL-E", "SD v1.5", "SD v2.1", "SDXL", "IF-XL"),
    rows={
        "overall": ("0.35", "0.23", "0.43", "0.50", "0.55", "0.61"),
        "single object": ("0.89", "0.73", "0.97", "0.98", "0.98", "0.97"),
        "two objects": ("0.22", "0.11", "0.38", "0.51", "0.74", "0.74"),
        "counting": ("0.37", "0.12", "0.35", "0.44", "0.39", "0.66"),
        "colours": ("0.62", "0.37", "0.76", "0.85", "0.85", "0.81"),
        "position": ("0.03", "0.02", "0.04", "0.07", "0.15", "0.13"),
        "colour attribution": ("0.00", "0.01", "0.06", "0.17", "0.23", "0.35"),
    },
)
