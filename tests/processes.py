"""Processes of the tests' own, which start with everything heavy imported already."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
# the compiler is imported by the first optimiser
CONTEXT.set_forkserver_preload(["hart.training.dry_run", "hart.training.encoding", "hart.pipeline", "torch._dynamo"])
