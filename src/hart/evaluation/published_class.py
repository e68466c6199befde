"""Figures of class-conditional models as printed in the paper (arXiv 2410.10812), for the tables of `hart evaluate`."""

from __future__ import annotations

from hart.evaluation.report import PublishedTable

CLASS_TO_IMAGE = PublishedTable(
    source="paper, Table 4: ImageNet 256 px, 50,000 pictures by ADM's protocol; A100, seconds for a batch of 64",
    columns=("FID", "Inception Score", "parameters", "steps", "MACs", "seconds"),
    rows={
        "DiT-XL/2": ("2.27", "278.2", "675M", "250", "57.2T", "113"),
        "VAR-d20": ("2.57", "302.6", "600M", "10", "412G", "1.3"),
        "VAR-d24": ("2.09", "312.9", "1.0B", "10", "709G", "1.7"),
        "VAR-d30": ("1.92", "323.1", "2.0B", "10", "1.4T", "2.6"),
        "MAR-B": ("2.31", "281.7", "208M", "64", "7.0T", "26.1"),
        "MAR-L": ("1.78", "296.0", "479M", "64", "16.0T", "34.9"),
        "HART-d20": ("2.39", "316.4", "649M", "10", "579G", "1.5"),
        "HART-d24": ("2.00", "331.5", "1.0B", "10", "858G", "1.9"),
        "HART-d30": ("1.77", "330.3", "2.0B", "10", "1.5T", "2.7"),
    },
)

CLASS_RESIDUAL_TOKENS = PublishedTable(
    source="paper, Table 5, left: HART with and without residual tokens, ImageNet 256 px",
    columns=(
        "FID without",
        "FID with",
        "Inception Score without",
        "Inception Score with",
        "seconds without",
        "seconds with",
    ),
    rows={
        "depth 20": ("2.67", "2.39", "297.3", "316.4", "1.3", "1.5"),
        "depth 24": ("2.23", "2.00", "312.7", "331.5", "1.7", "1.9"),
        "depth 30": ("2.00", "1.77", "311.8", "330.3", "2.5", "2.7"),
    },
)
