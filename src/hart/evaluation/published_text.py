"""Figures of text-to-image models as printed in the paper (arXiv 2410.10812), for the tables of `hart evaluate`."""

from __future__ import annotations

from hart.evaluation.report import PublishedTable

TEXT_TO_IMAGE = PublishedTable(
    source="paper, Table 2: FID of 30,000 pictures on Inception-v3, DPG-Bench answered by mPLUG-large; which CLIP the "
    "score is from is not said. Of HART's released weights at their defaults, which mix codes, others measured FID 9.9 "
    "and 10.7, GenEval 0.51 and DPG-Bench 66.7",
    columns=("parameters", "size", "MJHQ-30K FID", "CLIP score", "GenEval", "DPG-Bench"),
    rows={
        "Stable Diffusion v2.1": ("860M", "768", "26.96", "25.90", "0.50", "68.09"),
        "SDXL": ("2.6B", "1024", "8.76", "28.60", "0.55", "74.65"),
        "PixArt-alpha": ("630M", "512", "6.14", "27.55", "0.48", "71.11"),
        "PixArt-Sigma": ("630M", "1024", "6.34", "27.62", "0.52", "79.46"),
        "Playground v2.5": ("2B", "1024", "6.84", "29.39", "0.56", "76.75"),
        "SD3-medium": ("2B", "1024", "11.92", "27.83", "0.62", "85.80"),
        "LlamaGen": ("775M", "512", "25.59", "23.03", "0.32", "65.16"),
        "Show-o": ("1.3B", "256", "14.99", "27.02", "0.53", "67.48"),
        "HART 512": ("732M", "512", "5.22", "29.01", "0.56", "80.72"),
        "HART 1024": ("732M", "1024", "5.38", "29.09", "0.56", "80.89"),
    },
)

RESIDUAL_TOKENS = PublishedTable(
    source="paper, Table 5, right: HART with and without residual tokens",
    columns=("FID without", "FID with", "CLIP score without", "CLIP score with", "seconds without", "seconds with"),
    rows={
        "256 px": ("6.11", "5.52", "27.96", "28.03", "2.23", "2.42"),
        "512 px": ("6.29", "5.22", "28.91", "29.01", "5.62", "6.04"),
        "1024 px": ("5.73", "5.38", "29.08", "29.09", "25.9", "28.7"),
        "1024 px, VAR's quantiser": ("7.85", "", "28.85", "", "25.9", ""),
    },
)
