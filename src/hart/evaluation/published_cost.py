"""What drawing costs, as printed in the paper (arXiv 2410.10812), for the table of `hart evaluate cost`."""

from __future__ import annotations

from hart.evaluation.report import PublishedTable

TEXT_COST = PublishedTable(
    source="paper, Table 3: A100, throughput at batch 8",
    columns=(
        "parameters",
        "steps",
        "512 px: seconds",
        "pictures a second",
        "TMACs",
        "1024 px: seconds",
        "pictures a second",
        "TMACs",
    ),
    rows={
        "SDXL, 20 steps": ("2.6B", "20", "1.4", "2.1", "30.7", "2.3", "0.49", "120"),
        "SDXL, 40 steps": ("2.6B", "40", "2.5", "1.4", "61.4", "4.3", "0.25", "239"),
        "PixArt-Sigma": ("630M", "20", "1.2", "1.7", "21.7", "2.7", "0.4", "86.2"),
        "Playground v2.5, 20 steps": ("2B", "20", "", "", "", "2.3", "0.49", "120"),
        "Playground v2.5, 50 steps": ("2B", "50", "", "", "", "5.3", "0.21", "239"),
        "SD3-medium": ("2B", "28", "1.4", "1.1", "51.4", "4.4", "0.29", "168"),
        "LlamaGen": ("775M", "1024", "37.7", "0.4", "1.5", "", "", ""),
        "HART 512": ("732M", "10", "0.3", "10.6", "3.2", "", "", ""),
        "HART 1024": ("732M", "14", "", "", "", "0.75", "2.23", "12.5"),
    },
)
