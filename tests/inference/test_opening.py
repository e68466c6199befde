"""Opening a model: weights are held once, and nothing is imported that generation does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hart.checkpoint.loading import random_model, save_model
from helpers import tiny_text_config

PROGRAM = Path(__file__).parent / "opened_in_a_process.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is asked of Linux")
def test_weights_are_held_once_and_the_compiler_stays_away(tmp_path: Path) -> None:
    config = tiny_text_config(width=1024, heads=8, depth=2)
    save_model(tmp_path, config, *random_model(config, torch.Generator(), dtype=torch.bfloat16))
    run = subprocess.run([sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)
    assert results["imported"] == []
    # times the weights in the type that is computed in: a layer more while it is packed, and the tokenizer
    assert results["bfloat16"] < 1.35
    assert results["float32"] < 1.35
