"""Processes of the tests' own, which start with everything heavy imported already."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hart.training.trainer", "hart.pipeline"])
