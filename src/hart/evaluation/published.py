"""Figures as printed in the paper (arXiv 2410.10812), for the tables of `hart evaluate`."""

from __future__ import annotations

from hart.evaluation.report import PublishedTable

TOKENIZER = PublishedTable(
    source="paper, Table 1: rFID, Inception-v3 features, whole sets; not comparable with other features or counts",
    columns=("MJHQ-30K 256", "MJHQ-30K 512", "MJHQ-30K 1024", "ImageNet 256", "ImageNet 512"),
    rows={
        "VAR (discrete)": ("1.42", "1.19", "2.11", "0.92", "0.58"),
        "SDXL (continuous)": ("1.08", "0.54", "0.27", "0.69", "0.28"),
        "HART, discrete": ("1.70", "1.64", "1.09", "1.04", "0.89"),
        "HART, hybrid": ("0.78", "0.67", "0.30", "0.41", "0.33"),
    },
)
