"""How much a server takes on: images that wait, steps, time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from hart.config import SamplingConfig
from hart.inference.threads import single_threads
from hart.serving.models import order_threads
from serving_app import edit, error, png, running
from stand_in_engine import FACTS, StandInEngine
from waiting import PATIENCE, until


def test_a_full_queue_says_when_to_come_again() -> None:
    engine = StandInEngine()
    engine.open_gate.clear()
    with running(engine, batch_size=1, queue_size=2) as server, ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(server.post, prompt="x")]
        until(lambda: engine.batches)  # the sampling thread stands at the gate: what is accepted stays in the queue
        accepted += [clients.submit(server.post, prompt="x") for _ in range(2)]
        until(lambda: server.server.scheduler.waiting == 2)
        refused = server.post(prompt="x")
        assert error(refused, 429)["code"] == "queue_full" and int(refused.headers["retry-after"]) >= 1
        engine.open_gate.set()
        assert [answer.result().status_code for answer in accepted] == [200] * 3


def test_more_images_than_may_ever_wait_are_a_wrong_field() -> None:
    with running(queue_size=2) as server:
        found = error(server.post(prompt="x", n=3), 400)
        assert found["param"] == "n" and "up to 2 (--queue-size)" in found["message"]
        assert server.post(prompt="x", n=2).status_code == 200
        (model,) = server.http.get("/v1/models").json()["data"]
        assert model["max_images"] == server.http.get(f"/v1/models/{model['id']}").json()["max_images"] == 2
    with running(queue_size=11) as server:
        assert server.http.get("/v1/models").json()["data"][0]["max_images"] == 10
        assert server.post(prompt="x", n=10).status_code == 200


def test_steps_are_bounded_by_the_server_or_the_models_own() -> None:
    own = replace(FACTS, sampling=SamplingConfig(maskgit_steps=7))
    with running(StandInEngine(facts=own), max_steps=3) as server:
        assert server.post(prompt="x", maskgit_steps=7).status_code == 200
        for name, most in (("maskgit_steps", 7), ("diffusion_steps", 3)):
            assert f"up to {most}" in error(server.post(**{"prompt": "x", name: 8}), 400)["message"]


def test_the_time_of_a_request_is_bounded() -> None:
    engine = StandInEngine()
    engine.open_gate.clear()
    with running(engine) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(server.post, prompt="x")
        until(lambda: engine.batches)
        late = time.monotonic() + server.server.options.timeout
        server.server.scheduler.clock = lambda: late
        engine.open_gate.set()
        assert error(answer.result(), 504)["code"] == "timeout"
        assert int(answer.result().headers["retry-after"]) >= 1


def test_what_comes_before_the_queue_is_bounded_too() -> None:
    is_answered = threading.Event()

    class Slow(StandInEngine):
        def row(self, *arguments: Any, **named: Any) -> Any:
            assert is_answered.wait(PATIENCE)
            return super().row(*arguments, **named)

    def slow() -> StandInEngine:
        assert is_answered.wait(PATIENCE)
        return StandInEngine()

    with running(models={"tiny": Slow, "other": slow}, timeout=0.01) as server:
        for model in ("tiny", "other"):
            assert error(server.post(prompt="x", model=model), 504)["code"] == "timeout"
        is_answered.set()


class ComputingEngine(StandInEngine):
    """Notes with how many threads PyTorch would compute where requests are read."""

    def __init__(self) -> None:
        super().__init__()
        self.computes_with = list[int]()

    def remarks(self, prompt: str) -> list[str]:
        self.computes_with.append(torch.get_num_threads())
        return super().remarks(prompt)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_reading_requests_takes_no_threads_from_sampling(threads: int) -> None:
    """Where several threads have threads of PyTorch's, those of sampling wait for a wake-up at every operation."""
    with running(ComputingEngine()) as server:
        assert server.post(prompt="x").status_code == 200
        assert edit(server, png()).status_code == 200
        assert isinstance(server.engine, ComputingEngine)
        assert server.engine.computes_with == [1, 1]
    assert torch.get_num_threads() == threads


def test_models_that_open_together_begin_the_threads_once() -> None:
    """While threads begin, PyTorch has another number of them, which those that begin meanwhile would keep."""
    single_threads.cache_clear()
    with ThreadPoolExecutor(4) as openers:
        begun = list(openers.map(lambda _: order_threads(with_image=False), range(4)))
    assert len(set(map(id, begun))) == 1
