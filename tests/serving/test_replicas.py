"""`hart serve --ray`: what a replica that dies had not answered is drawn by another, once and the same."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

import replica_processes
from hart.serving import bodies
from hart.serving.models import ModelUnavailable
from hart.serving.options import ServeOptions
from hart.serving.schemas import RETRY_AFTER, ApiError
from processes import ON_RAY, require_ray, started
from serving_app import application, png
from waiting import PATIENCE, until

GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"
LONG = {"prompt": "a cat", "n": 10, "stream": True}


def replicas() -> Any:
    """The module of them: Ray takes a second to import."""
    return pytest.importorskip("hart.serving.replicas")


@dataclass
class StandInReplicas:
    """A handle of the replicas of an application; the first ones die after so many messages. later: what the second and
    further ones are instead."""

    app: Any
    lives: list[int]
    later: list[Any] = field(default_factory=list)
    asked: int = 0
    bodies: list[bytes] = field(default_factory=list)
    scopes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def states(self) -> list[dict[str, Any]]:
        return [scope["state"] for scope in self.scopes]

    def options(self, stream: bool) -> StandInReplicas:
        return self

    @property
    def answer(self) -> StandInReplicas:
        return self

    def remote(self, scope: Any, body: bytes) -> StandInAnswer:
        self.asked += 1
        self.bodies.append(body)
        self.scopes.append(scope | {"state": dict(scope["state"])})
        app = self.later.pop(0) if self.later and self.asked > 1 else self.app
        return StandInAnswer(app, scope, body, self.lives.pop(0) if self.lives else None)


class StandInAnswer:
    def __init__(self, app: Any, scope: Any, body: bytes, life: int | None) -> None:
        self._messages, self._left = replicas().answered(app, scope, body), life

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._left == 0:
            await self._messages.aclose()
            raise import_module("ray").exceptions.ActorDiedError
        self._left = None if self._left is None else self._left - 1
        return await anext(self._messages)

    def cancel(self) -> None:
        pass


@contextmanager
def fronted(
    lives: Sequence[int] = (), rate_limit: float | None = None, **options: Any
) -> Iterator[tuple[TestClient, StandInReplicas]]:
    app = application(rate_limit=rate_limit)
    handle = StandInReplicas(app, list(lives))
    given = ServeOptions(public="api_key" not in options, **options)
    front = replicas().front_app(given, 1, lambda: handle, lambda: None)
    with TestClient(app), TestClient(front, raise_server_exceptions=False) as http:
        yield http, handle


def timeless(text: str) -> str:
    return re.sub(r'"created(_at)?":[0-9]+', "", text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lives", [(0,), (2, 6)])
def test_an_answer_is_whole_and_once_though_replicas_die(lives: tuple[int, ...], stream: bool) -> None:
    body = {"prompt": "x", "n": 2, "seed": 3, "stream": stream}
    with fronted() as (http, _):
        whole = http.post(GENERATE, json=body)
    with fronted(lives) as (http, handle):
        found = http.post(GENERATE, json=body)
        assert found.status_code == whole.status_code == 200
        assert timeless(found.text) == timeless(whole.text)
        assert stream is False or handle.asked == len(lives) + 1


def test_a_request_without_a_seed_goes_on_with_the_same_one() -> None:
    with fronted([4]) as (http, _):
        text = http.post(GENERATE, json={"prompt": "x", "stream": True}).text
    assert len(set(re.findall('"seed":[0-9]+', text))) == 1
    assert re.findall("id: (.+)", text) == ["0.1", "0.2", "0.3", "0.4"]


def test_a_request_of_which_all_replicas_die_is_told_so() -> None:
    with fronted([0, 1, 1, 0, 2, 3]) as (http, handle):
        answer = http.post(GENERATE, json={"prompt": "x"})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "replicas_died"
        stream = http.post(GENERATE, json={"prompt": "x", "stream": True}).text
        assert '"code":"replicas_died"' in stream.rpartition("event: error")[2]
        assert handle.asked == 2 * replicas().ATTEMPTS
        assert http.post(GENERATE, json={"prompt": "x"}).status_code == 200


def test_a_second_replica_charges_nothing() -> None:
    body = {"prompt": "x", "n": 3, "stream": True}
    with fronted([1], rate_limit=2) as (http, handle):
        whole = http.post(GENERATE, json=body)
        assert whole.status_code == 200 and "rate_limit" not in whole.text
        assert handle.asked == 2
        assert http.post(GENERATE, json=body).status_code == 429


def test_an_error_of_a_second_replica_ends_the_stream_as_an_event() -> None:
    with fronted([4]) as (http, handle):
        handle.later.append(JSONResponse({"error": {"code": "queue_full"}}, 429))
        answer = http.post(GENERATE, json={"prompt": "x", "stream": True})
    assert answer.status_code == 200
    assert answer.text.endswith('\n\nevent: error\ndata: {"error":{"code":"queue_full"}}\n\n')


def test_all_attempts_share_the_time_of_a_request() -> None:
    with fronted([2, 2], timeout=50) as (http, handle):
        assert http.post(GENERATE, json={"prompt": "x", "stream": True}).status_code == 200
    left = [state["seconds"] for state in handle.states]
    assert 50 >= left[0] > left[1] > left[2]


def test_the_front_checks_who_comes_and_passes_on_what_is_for_a_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hart")
    with fronted(api_key=("k",), log_requests=True) as (http, handle):
        assert http.get("/").status_code == http.get("/healthz").status_code == 200
        for refused_request in (http.post(GENERATE, json={"prompt": "x"}), http.get("/metrics")):
            assert refused_request.status_code == 401 and refused_request.json()["error"]["message"]
        http.headers["Authorization"] = "Bearer k"
        for path in ("/none", "/v1/none"):
            assert http.get(path).json()["error"]["message"] == "there is nothing at this address: the API is below /v1"
        assert handle.asked == 0
        assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert http.get("/v1/models/tiny").json()["id"] == "tiny" and http.get("/v1/models/x").status_code == 404
        form = {"files": {"image": ("a.png", png(), "image/png")}, "data": {"prompt": "x"}}
        answer = http.post(EDIT, **form)
        assert answer.status_code == 200
        assert len(answer.headers.get_list("content-security-policy")) == 1
        foreign = http.post(GENERATE, json={"prompt": "x"}, headers={"Origin": "https://other.example"})
        assert foreign.status_code == 200  # who has a key may be a page of another host
        assert {state["client"] for state in handle.states} == {"key 0"}
        assert not any(name in replicas().KEYS for scope in handle.scopes for name, _ in scope["headers"])
    lines = [record.getMessage().split(" ", 1)[1] for record in caplog.records]
    assert lines[-4:] == ["/v1/models/{name:path} 200", "/v1/models/{name:path} 404", f"{EDIT} 200", f"{GENERATE} 200"]


def test_without_a_key_no_body_reaches_a_replica() -> None:
    with fronted(api_key=("k",)) as (http, handle):
        for path in ("/readyz", "/openapi.json"):
            assert http.post(path, content=b"x" * 10).status_code == 405
            assert handle.asked == 0
        assert http.request("GET", "/readyz", content=b"x" * 10).status_code in (200, 503)
        assert handle.bodies == [b""]


def test_the_document_is_that_of_one_server_keys_included() -> None:
    for options in ({}, {"api_key": ("k",)}):
        with fronted(**options) as (http, handle):
            assert http.get("/openapi.json").json() == application(**options).openapi()
            assert handle.asked == 0


def test_while_replicas_start_or_cannot_the_page_is_there_and_requests_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> Any:
        raise RuntimeError("no room")

    with TestClient(replicas().front_app(ServeOptions(public=True), 1, fail, lambda: None)) as http:
        assert http.get("/").status_code == 200
        for answer in (http.get("/readyz"), http.post(GENERATE, json={"prompt": "x"})):
            assert answer.status_code == 503 and "cannot be started" in answer.json()["error"]["message"]
        assert http.get("/healthz").status_code == 503
        assert 'hart_answers_total{path="/healthz",replica="front",status="503"} 1.0' in http.get("/metrics").text
    assert caplog.text.count("no room") == 1


def test_a_replica_whose_model_cannot_be_opened_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it changes
    monkeypatch.setattr(replicas(), "configure_logging", lambda: None)
    replica = replicas().Replica
    with pytest.raises(ModelUnavailable) as said:
        asyncio.run(replica.__init__(replica.__new__(replica), ServeOptions(model=(f"{tmp_path}/none",)), 1))
    assert str(tmp_path) in str(said.value.__cause__), "the front's log says why"


def test_a_stop_takes_away_what_was_still_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, done, settled = threading.Event(), list[str](), replicas().Front.settled

    async def while_it_stops(front: Any) -> None:
        stopping.set()
        await settled(front)

    def slow() -> None:
        assert stopping.wait(PATIENCE)
        done.append("deployed")

    monkeypatch.setattr(replicas().Front, "settled", while_it_stops)

    with TestClient(replicas().front_app(ServeOptions(public=True), 1, slow, lambda: done.append("withdrawn"))) as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/metrics").status_code == 200
    assert done == ["deployed", "withdrawn"]


def test_bodies_that_wait_for_replicas_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HELD_BYTES", 40)
    reached, going_on = threading.Event(), threading.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        reached.set()
        await asyncio.to_thread(going_on.wait, PATIENCE)
        await JSONResponse({})(scope, receive, send)

    with fronted() as (http, handle), ThreadPoolExecutor(1) as client:
        app, handle.app = handle.app, waiting
        held = client.submit(http.post, GENERATE, json={"prompt": "most of forty bytes"})
        assert reached.wait(PATIENCE)
        refusal = http.post(GENERATE, json={"prompt": "x"})
        assert refusal.status_code == 503 and refusal.headers["Retry-After"] == str(RETRY_AFTER)
        assert refusal.json()["error"]["code"] == "overloaded"
        going_on.set()
        assert held.result().status_code == 200
        handle.app = app
        assert http.post(GENERATE, json={"prompt": "x"}).status_code == 200


def test_no_body_is_read_before_there_are_replicas() -> None:
    def fail() -> Any:
        raise RuntimeError("no room")

    async def ask() -> int:
        front = replicas().Front(fail, 60)
        front.start()

        async def receive() -> Any:
            raise AssertionError("it was read")

        scope = {"type": "http", "method": "POST", "path": GENERATE, "headers": []}
        with pytest.raises(ApiError) as refusal:
            await front(scope, receive, receive)
        return refusal.value.status

    assert asyncio.run(ask()) == 503


def test_a_body_that_takes_long_leaves_the_request_its_time() -> None:
    async def ask() -> list[float]:
        handle = StandInReplicas(JSONResponse({}), [])
        front = replicas().Front(lambda: handle, 5)
        front.start()
        bodies = [{"type": "http.request", "body": b"x"}]

        async def receive() -> Any:
            await asyncio.sleep(0.5 if bodies else PATIENCE)
            return bodies.pop()

        async def send(_: Any) -> None: ...

        scope = {"type": "http", "method": "POST", "path": GENERATE, "headers": []}
        await front.settled()
        await front(scope | {"state": {"client": "x", "seed": 0}}, receive, send)
        return [state["seconds"] for state in handle.states]

    (seconds,) = asyncio.run(ask())
    assert seconds > 4.6


def test_an_application_that_ends_without_an_answer_keeps_nobody_waiting() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("lost")

    async def read(app: Any) -> None:
        async for _ in replicas().answered(app, {}, b""):
            pass

    for app, error in ((silent, RuntimeError), (failing, KeyError)):
        with pytest.raises(error):
            asyncio.run(asyncio.wait_for(read(app), 60))


@pytest.mark.slow
def test_of_two_replicas_one_is_killed_under_load(text_model: Path, tmp_path: Path) -> None:
    given = ("serve", "--ray", "--replicas", 2, "--device", "cpu", "--port", 0, "--model", text_model)
    environment = ON_RAY | {replica_processes.MARK: str(tmp_path / "killed")}
    with started(*given, "--timeout", 3600, main=replica_processes.main, **environment) as server:
        if not (url := server.said[0].readline().strip()):
            require_ray(server)
        until(lambda: httpx2.get(f"{url}/readyz", timeout=PATIENCE).is_success)
        seeds = range(16)
        with ThreadPoolExecutor(8) as clients:
            found = list(clients.map(lambda seed: drawn(url, seed, stream=seed % 2 == 1), seeds))
        assert (tmp_path / "killed").exists()
        assert found == [drawn(url, seed, stream=False) for seed in seeds]
        assert len(set(found)) == len(seeds)
        until(lambda: left_and_noticed(url))
        server.send_signal(signal.SIGTERM)
        assert server.wait() in (-signal.SIGTERM, 128 + signal.SIGTERM)


def left_and_noticed(url: str) -> bool:
    """Ask for many images and leave. Whether any replica says that it left out those of a client who has left."""
    with httpx2.stream("POST", f"{url}{GENERATE}", json=LONG, timeout=PATIENCE) as answer:
        next(answer.iter_lines())
    figures = httpx2.get(f"{url}/metrics", timeout=PATIENCE).text
    return bool(re.search('outcome="cancelled",replica="[^"]+"} [1-9]', figures))


def drawn(url: str, seed: int, stream: bool) -> str:
    """The image of a seed; in a stream after one partial image for every scale but the last."""
    body = {"prompt": "a cat", "seed": seed, "stream": stream}
    answer = httpx2.post(f"{url}{GENERATE}", json=body, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    if not stream:
        return str(answer.json()["data"][0]["b64_json"])
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["scale"] for event in events] == list(range(1, events[0]["scales"] + 1))
    return str(events[-1]["b64_json"])
