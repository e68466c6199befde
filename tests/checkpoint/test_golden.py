"""Agreement with the published reference code: every recorded quantity of every golden case (see golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart.checkpoint.storage import read_safetensors
from hart.checkpoint.verification import GOLDEN_FILE, verify
from helpers import GOLDEN_INPUTS

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob(f"*/{GOLDEN_FILE}"))


def test_the_cases_are_here() -> None:
    assert CASES == ["t2i", "t2i-qknorm-adaln", "t2i-rounds", "var-c2i"]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case: str) -> None:
    comparisons = verify(GOLDEN / case)
    failures = [f"{c.name}: {c.difference:.1e} > {c.tolerance:.1e} {c.remark}" for c in comparisons if not c.passed]
    assert not failures
    recorded = set(read_safetensors(GOLDEN / case / GOLDEN_FILE))
    assert {c.name for c in comparisons} == recorded - GOLDEN_INPUTS
    assert len(comparisons) > len(recorded & GOLDEN_INPUTS)
