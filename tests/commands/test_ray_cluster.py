"""Joining a Ray cluster, or starting one."""

from __future__ import annotations

import pytest

from hart import HartError


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from hart.commands.ray_cluster import joined

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nIt may be overloaded.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(HartError, match=r"^Ray: no cluster can be joined or started \(The current node timed out"):
        joined(None, 1, "--workers")
