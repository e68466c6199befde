"""A program keeps freed memory for what it needs next, and so do the processes that it starts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hart.commands.program import ALLOCATOR, keep_freed_memory

KEEPING = """
from hart.commands.program import keep_freed_memory
keep_freed_memory()
"""
ONCE_IN_NEW_PAGES = """
import mmap, resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
size = 2 ** 26
b"1" * size
before = faults()
for _ in range(4):
    b"1" * size
assert faults() - before < size / mmap.PAGESIZE / 4, "each block came in new pages"
"""
STARTING = f"""
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", {ONCE_IN_NEW_PAGES!r}]).returncode)
"""


def result_of(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a process without settings of memory but these."""
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="other C libraries are left alone",
)
def test_freed_blocks_are_used_again() -> None:
    assert "in new pages" in result_of(ONCE_IN_NEW_PAGES).stderr, "what glibc does by itself"
    for code in (KEEPING + ONCE_IN_NEW_PAGES, KEEPING + STARTING):
        assert result_of(code).stderr == ""
    own = result_of(KEEPING + ONCE_IN_NEW_PAGES, MALLOC_MMAP_THRESHOLD_="1048576")
    assert "in new pages" in own.stderr, "variables that are set have the say"


def test_an_allocator_that_refuses_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As glibc before 2.35 does, for which one setting without the other is worse than none."""
    asked = list[int]()
    library = SimpleNamespace(mallopt=lambda option, value: asked.append(option))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for variable in ALLOCATOR:
        monkeypatch.delenv(variable, raising=False)
    keep_freed_memory()
    assert asked == [ALLOCATOR["MALLOC_MMAP_THRESHOLD_"]]
    assert not ALLOCATOR.keys() & os.environ.keys()
