"""What a server says of itself to those who run it: health, figures, and when to come again."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from hart.errors import HartError
from hart.serving import options
from hart.serving.access import Access
from hart.serving.metrics import Metrics
from hart.serving.middleware import RequestMiddleware
from hart.serving.options import ServeOptions
from serving_app import Running, application, error, running
from stand_in_engine import StandInEngine
from waiting import PATIENCE, until


def figures(server: Running) -> dict[tuple[str, ...], float]:
    """Name and labels' values of each figure -> its value."""
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_figures_count_what_clients_saw() -> None:
    with running() as server:
        before = figures(server)
        assert before["hart_images_total", "finished"] == before["hart_images_total", "failed"] == 0
        assert server.post(prompt="x", n=3).status_code == 200
        assert server.post(prompt="x", n=11).status_code == 400
        assert server.post(prompt="broken").status_code == 500
        assert server.http.get("/v1/secret").status_code == 404
        found = figures(server)
        path = "/v1/images/generations"
        assert {found["hart_answers_total", path, status] for status in ("200", "400", "500")} == {1}
        assert found["hart_answers_total", "other", "404"] == 1
        assert (found["hart_images_total", "finished"], found["hart_images_total", "failed"]) == (3, 1)
        assert found["hart_answer_seconds_count", path] == 3, "of images, apart from probes and the page"
        assert found["hart_answer_seconds_count", "/metrics"] == 1
        assert found["hart_seconds_count", "queue"] == 4 and found["hart_seconds_count", "encode"] == 3
        assert (found["hart_batch_images_count",], found["hart_batch_images_sum",]) == (2, 4)
        assert (found["hart_waiting_images",], found["hart_open_requests",]) == (0, 0)
        assert found["process_resident_memory_bytes",] > 2**20


def test_probes_and_figures_are_answered_when_no_more_requests_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "BESIDE_THE_QUEUE", 0)
    engine = StandInEngine()
    engine.open_gate.clear()
    with running(engine, queue_size=2) as server, ThreadPoolExecutor(2) as clients:
        accepted = [clients.submit(server.post, prompt="x") for _ in range(2)]
        until(lambda: figures(server)["hart_open_requests",] == 2)
        refused = server.post(prompt="x")
        assert error(refused, 503)["code"] == "overloaded" and int(refused.headers["retry-after"]) >= 1
        for path in ("/", "/healthz", "/readyz", "/v1/models"):
            assert server.http.get(path).status_code == 200
        engine.open_gate.set()
        assert [answer.result().status_code for answer in accepted] == [200] * 2
        assert server.post(prompt="x").status_code == 200


def test_a_front_takes_as_many_requests_as_its_replicas_together(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = pytest.importorskip("hart.serving.replicas")
    monkeypatch.setattr(options, "BESIDE_THE_QUEUE", 0)
    going_on = threading.Event()

    def deploy() -> None:
        going_on.wait(PATIENCE)
        raise RuntimeError("no room")

    front = replicas.front_app(ServeOptions(public=True, queue_size=1), 2, deploy, lambda: None)
    with TestClient(front) as http, ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(http.post, "/v1/images/generations", json={"prompt": "x"}) for _ in range(2)]
        until(lambda: 'hart_open_requests{replica="front"} 2.0' in http.get("/metrics").text)
        assert error(http.post("/v1/images/generations", json={"prompt": "x"}), 503)["code"] == "overloaded"
        going_on.set()
        assert {error(answer.result(), 503)["code"] for answer in waiting} == {"no_replica"}
        assert "cannot be started" in http.get("/healthz").json()["message"], "as a server says it"


def test_a_server_that_opens_its_model_lives_and_is_not_ready() -> None:
    going_on = threading.Event()

    def tiny() -> StandInEngine:
        going_on.wait(PATIENCE)
        return StandInEngine()

    with TestClient(application(models={"tiny": tiny})) as http:
        assert (http.get("/healthz").status_code, http.get("/readyz").status_code) == (200, 503)
        said = {"message": "the model tiny is being opened", "models": {"tiny": "opening"}}
        assert http.get("/readyz").json() == {"ready": False} | said
        going_on.set()
        until(lambda: http.get("/readyz").status_code == 200)
        said = {"message": "the model tiny is ready", "models": {"tiny": "ready"}}
        assert http.get("/readyz").json() == {"ready": True} | said


def test_a_default_model_that_is_tried_again_is_no_health_until_it_is_open() -> None:
    """Or else requests that let it be tried would keep a server from being started again."""
    tries, going_on = list[int](), threading.Event()

    def tiny() -> Any:
        tries.append(len(tries))
        if len(tries) == 1:
            raise HartError("/secret/path: no model here")
        going_on.wait(PATIENCE)
        return StandInEngine()

    with running(models={"tiny": tiny}) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(server.post, prompt="x")
        until(lambda: server.server.models.default.state == "opening")
        assert server.http.get("/healthz").json()["message"].endswith("cannot be opened; the server's log says why")
        assert server.http.get("/v1/models/tiny").json()["problem"], "of the last try that has ended"
        assert (
            server.http.get("/readyz").json()["message"] == "the model tiny cannot be opened; the server's log says why"
        )
        assert server.http.get("/readyz").json()["models"] == {"tiny": "opening"}
        going_on.set()
        assert answer.result().status_code == 200
        assert server.http.get("/healthz").status_code == server.http.get("/readyz").status_code == 200
        assert server.http.get("/v1/models/tiny").json()["problem"] is None


def test_a_model_that_could_not_be_opened_is_opened_by_a_later_request() -> None:
    failures = [HartError("/secret/path: no model here")]

    def other() -> Any:
        if failures:
            raise failures.pop()
        return StandInEngine()

    with running(models={"tiny": StandInEngine, "other": other}) as server:
        refused = server.post(prompt="x", model="other")
        assert error(refused, 503)["code"] == "model_unavailable" and int(refused.headers["retry-after"]) >= 1
        assert server.http.get("/readyz").json()["models"]["other"] == "failed", "looking at it opens nothing"
        assert server.http.get("/healthz").status_code == 200, "the default one works"
        assert server.post(prompt="x", model="other").json()["model"] == "other"


@pytest.mark.parametrize("access", [Access(), Access(["key"])])
def test_refused_requests_are_not_open(access: Access) -> None:
    figures = Metrics()
    middleware = RequestMiddleware(Starlette(), access, figures, most_posts=0, log_requests=False)
    counted: list[float | None] = []

    async def send(message: Message) -> None:
        counted.append(figures.registry.get_sample_value("hart_open_requests"))

    scope = {"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": []}
    asyncio.run(middleware(scope, Request(scope).receive, send))
    assert set(counted) == {0}


def test_the_log_of_requests_holds_nothing_that_a_client_wrote(caplog: pytest.LogCaptureFixture) -> None:
    middleware = RequestMiddleware(Starlette(), Access(), Metrics(), most_posts=1, log_requests=True)
    http = TestClient(middleware, headers={"user-agent": "private"})
    with caplog.at_level("INFO", "hart"):
        http.request("PRIVATE", "/private?private", content="private")
    assert [record.getMessage() for record in caplog.records] == ["testclient other 404"]


def test_a_lack_of_memory_says_when_to_come_again() -> None:
    class Small(StandInEngine):
        def start(self, rows: Any) -> Any:
            raise MemoryError

    with running(Small()) as server:
        refused = server.post(prompt="x")
        assert error(refused, 503)["code"] == "out_of_memory" and int(refused.headers["retry-after"]) >= 1
