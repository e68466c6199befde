"""All of inference on older processors than this one: PyTorch and oneDNN are held back to what those have.

What this processor computes itself is tested everywhere else.
"""

from __future__ import annotations

from typing import Any

import pytest

import generated_on_a_processor
from processes import CONTEXT
from waiting import PATIENCE

HELD_BACK: dict[str, dict[str, str]] = {
    "without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    # both, as on such a processor
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.fixture(scope="module", params=HELD_BACK)
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    held_back, queue = HELD_BACK[request.param], CONTEXT.Queue()
    process = CONTEXT.Process(target=generated_on_a_processor.on_processor, args=(held_back, queue))
    process.start()
    found: dict[str, Any] = queue.get(timeout=PATIENCE)
    process.join(PATIENCE)
    assert found["capability"] == held_back["ATEN_CPU_CAPABILITY"].upper(), "nothing had asked the processor before"
    return found


def test_everything_is_drawn_and_agrees_with_the_reference(results: dict[str, Any]) -> None:
    assert not results["failed quantities"]
    for name, colour in results["colours"].items():
        assert colour.index(max(colour)) == (0 if "red" in name else 2), name
    assert all(results["images"].values()), results["images"]
    assert results["plain and packed"]["float32"] < 1e-4
    assert results["plain and packed"]["bfloat16"] < 5e-2
