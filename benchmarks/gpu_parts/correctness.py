"""Part 1: the golden numbers and the checks of `tests/test_devices.py` on a device."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gpu_parts.cells import Cells, Row
from hart.checkpoint.verification import GOLDEN_FILE, verify

ROOT = Path(__file__).resolve().parents[2]
TESTS, GOLDEN = ROOT / "tests", ROOT / "tests" / "golden"
CPU = torch.device("cpu")
COMPARED = ("difference", "tolerance", "passed", "remark")
# the CPU's bfloat16 says how much of a difference is the number type's and not the device's
RUNS = (("float32", False), ("bfloat16", False), ("bfloat16", True))


def run(cells: Cells, *, tiny: bool) -> None:
    cases = sorted(path.parent.name for path in GOLDEN.glob(f"*/{GOLDEN_FILE}"))
    if not cases:
        cells.fact("note", f"{GOLDEN} is not here: no golden number was compared")
    for dtype, on_cpu in RUNS:
        device = CPU if on_cpu else cells.device
        for case in cases[:1] if tiny else cases:
            key = f"golden {case}, {dtype}, {device}"
            cells.cell(key, lambda case=case, device=device, dtype=dtype: golden(case, device, dtype), limit=60)
    sys.path.insert(0, str(TESTS))
    for kind in ("text", "class"):
        cells.cell(f"device {kind}, float32", lambda kind=kind: image_difference(kind, cells.device), limit=60)
        for dtype in ("bfloat16", "float16"):
            key = f"device {kind}, {dtype}"
            cells.cell(key, lambda kind=kind, dtype=dtype: contrast(kind, cells.device, dtype), limit=60)
        if cells.device.type == "cuda":
            cells.cell(f"device {kind}, waits", lambda kind=kind: waits(kind), limit=60)
    cells.cell("device noise", lambda: noise(cells.device), limit=60)
    if cells.device.type == "cuda":
        for speed in ("graphs", "compiled"):
            key = f"device text, {speed}"
            cells.cell(key, lambda speed=speed: image_difference("text", cells.device, speed), limit=120)


def golden(case: str, device: torch.device, dtype: str) -> Row:
    comparisons = verify(GOLDEN / case, device=device, dtype=getattr(torch, dtype))
    return {
        "case": case,
        "dtype": dtype,
        "device": str(device),
        "compared": len(comparisons),
        "failed": [c.name for c in comparisons if not c.passed],
        "keys": {c.name: {name: getattr(c, name) for name in COMPARED} for c in comparisons},
    }


def image_difference(kind: str, device: torch.device, speed: str = "") -> Row:
    from device_checks import EXACT, LARGEST_DIFFERENCE, RECORDED, difference

    found = difference(kind, device.type, speed=RECORDED.get(speed, EXACT))
    return {"mean_difference_of_255": found, "tolerance": LARGEST_DIFFERENCE, "passed": found < LARGEST_DIFFERENCE}


def contrast(kind: str, device: torch.device, dtype: str) -> Row:
    from device_checks import contrast, difference

    found = contrast(kind, device.type, dtype)
    return {
        "standard_deviation_of_255": found,
        "passed": found > 0,
        "mean_difference_of_255": difference(kind, device.type, dtype),
        "same_type_on_cpu": difference(kind, "cpu", dtype),
    }


def waits(kind: str) -> Row:
    """Return how often the host waits for the device between text and pixels."""
    from device_checks import synchronizations

    found = synchronizations(kind)
    return {"passed": not found, "note": ", ".join(sorted(set(found)))}


def noise(device: torch.device) -> Row:
    from device_checks import noise_difference

    found = noise_difference(device.type)
    return {"passed": found < 1e-4, "note": f"random numbers differ by at most {found:.1e}"}
