"""The suites of `hart evaluate`, one file each, declared with what is in `base`.

Other packages add theirs as entry points of the group `hart.suites`: NAME = "package.module:SUITE".
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hart.evaluation.suites.base import Suite

CORE = {
    "tokenizer": "Reconstruction, discrete against hybrid: PSNR, SSIM, perceptual distance, rFID, rKID. "
    "A stopped run continues.",
    "generation": "Images generated for captions of a set, against the set: FID, KID, precision, recall. "
    "A stopped run continues.",
    "geneval": "GenEval: are the named objects there, in the right number, colours and places? "
    "A stopped run continues.",
    "dpg": "DPG-Bench: questions about images of long prompts. A stopped run continues.",
    "mjhq": "MJHQ-30K: FID and KID, over all and by category, and CLIP score. A stopped run continues.",
    "coco": "COCO-30K: FID and KID at 256 px against val2014, and CLIP score. A stopped run continues.",
    "imagenet": "ImageNet 256 px, 50,000 images: FID, sFID, Inception Score, precision, recall. "
    "A stopped run continues.",
    "cost": "Parameters and MACs by part, latency, throughput and peak memory.",
}
"""The suites of this package, with what each measures."""


def suite_places() -> dict[str, str]:
    """Name of every suite -> "module:variable", where it is declared."""
    others = {entry.name: entry.value for entry in entry_points(group="hart.suites")}
    return others | {name: f"{__name__}.core:{name.upper()}" for name in CORE}


def load_suite(place: str) -> Suite[Any]:
    """The suite declared there."""
    suite: Suite[Any] = resolve_name(place)
    return suite
