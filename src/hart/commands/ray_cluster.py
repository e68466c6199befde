"""The Ray cluster that a command uses."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import ray

from hart.errors import HartError
from hart.strict import reason


@dataclass(frozen=True)
class Cluster:
    """workers: processes to start. on_a_machine: how many share a machine's processor."""

    gpus: int
    workers: int
    on_a_machine: int


def joined(device: str | None, workers: int | None, option: str) -> Cluster:
    """Join the cluster that `RAY_ADDRESS` names or that this machine belongs to, else start one on this machine.

    workers: as given by `option`; by default one per GPU, or one per machine if there are none or if `device` is the
    CPU. Raises `HartError` for more than there are GPUs, and if there is no cluster and none can be started.
    """
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # of many types, some of them plain
        raise HartError(
            f"Ray: no cluster can be joined or started ({reason(error)}): check RAY_ADDRESS, or try again when this "
            "machine is less busy"
        ) from None
    gpus = 0 if device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
    if gpus and workers is not None and workers > gpus:
        raise HartError(f"{option} {workers}: a GPU takes one, but the cluster has {gpus}")
    machines = sum(node["Alive"] for node in ray.nodes())
    workers = workers or gpus or machines
    return Cluster(gpus, workers, -(-workers // machines))
