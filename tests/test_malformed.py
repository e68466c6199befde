"""Malformed input of every kind is used or refused in one line; `fuzzing.py` runs for as long as one likes."""

from __future__ import annotations

import pytest

from fuzzing import Fuzzer
from victims import VICTIMS

LEAST = 2


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(tmp_path_factory.mktemp("fuzzing"))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("victim", VICTIMS)
def test_damaged_input_is_used_or_refused_in_one_line(fuzzer: Fuzzer, victim: str) -> None:
    trials = [fuzzer.trial(victim, number) for number in range(max(LEAST, len(VICTIMS[victim].commands)))]
    assert not [trial for trial in trials if trial.fault]
