"""Facts about the machine and the code that a result must state."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hart.benchmark.machine import machine_facts

ROOT = Path(__file__).resolve().parents[2]
NVIDIA = {
    "driver": "driver_version",
    "SM clock": "clocks.sm",
    "largest SM clock": "clocks.max.sm",
    "memory clock": "clocks.mem",
    "temperature": "temperature.gpu",
    "power": "power.draw",
    "power limit": "power.limit",
}


def machine(device: torch.device, commit: str = "") -> dict[str, Any]:
    """Return facts by name, including the GPU's if `device` is one. Only queries; changes no setting."""
    facts: dict[str, Any] = {
        "commit": commit or _output(["git", "-C", str(ROOT), "rev-parse", "HEAD"]) or "unknown",
        "source": source_fingerprint(),
    }
    return facts | machine_facts(device) | (clocks() if device.type == "cuda" else {})


def clocks() -> dict[str, str]:
    """Return the current readings of nvidia-smi; empty if it is missing."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", f"--query-gpu={','.join(NVIDIA.values())}", "--format=csv,noheader"]
    values = _output(query).splitlines()[:1]
    return dict(zip(NVIDIA, (value.strip() for value in values[0].split(",")), strict=False)) if values else {}


def source_fingerprint() -> str:
    """Identify the code that ran, for a copy without git: SHA-256 over the files in `src/hart`."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "hart").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _output(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()
