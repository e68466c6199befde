"""Clients that leave, read slowly, send half a request or come in crowds, over real connections."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from starlette.responses import Response

from hart.commands import serve
from hart.serving import bodies
from hart.serving.orders import Order
from hart.serving.scheduler import State
from hart.serving.schemas import Generation
from live_server import Live, live
from serving_app import application
from stand_in_engine import SCALES, SIZES, StandInEngine, drawn
from waiting import PATIENCE, until


def post(body: dict[str, Any], length: int | None = None) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    ).encode() + content


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_place_before_the_next_scale(stream: bool) -> None:
    engine = StandInEngine()
    engine.open_gate.clear()
    with live(application(engine)) as server:
        with server.connect() as connection:
            connection.sendall(post({"prompt": "x", "stream": stream, "n": 2}))
            until(lambda: engine.batches)
        until(lambda: server.outcome("cancelled") == 2)
        engine.open_gate.set()
        answer = httpx2.post(f"{server.url}/v1/images/generations", json={"prompt": "y", "seed": 7}, timeout=PATIENCE)
        assert answer.status_code == 200
        assert len([seeds for seeds in engine.sampled if seeds != [7]]) <= 1


def test_half_a_body_ends_in_time_and_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with live(application(StandInEngine())) as server, server.connect() as half, server.connect() as gone:
        gone.sendall(post({"prompt": "x"}, length=500))
        gone.close()
        half.sendall(post({"prompt": "x"}, length=500))
        until(lambda: server.server.bodies.room.left < bodies.HELD_BYTES)
        answer = httpx2.post(f"{server.url}/v1/images/generations", json={"prompt": "y"}, timeout=PATIENCE)
        assert answer.status_code == 200
        left = {"path": "/v1/images/generations", "status": "499"}
        until(lambda: server.server.metrics.registry.get_sample_value("hart_answers_total", left) == 1)
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0)
        with server.connect() as late:
            late.sendall(post({"prompt": "x"}, length=500))
            refused = late.recv(1000)
            assert refused.startswith(b"HTTP/1.1 408") and b"connection: close" in refused


def test_a_head_without_end_is_not_read() -> None:
    with live(application(StandInEngine())) as server, suppress(ConnectionError), server.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 2**17)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_slow_reader_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SEND_SECONDS", PATIENCE)
    engine = StandInEngine()
    with live(application(engine)) as server, server.connect() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(post({"prompt": "x", "stream": True, "n": 10}))
        until(lambda: server.outcome("finished") == 10)
        assert httpx2.get(f"{server.url}/healthz", timeout=PATIENCE).status_code == 200
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        assert received_events(slow) == 10 * SCALES


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such time-out")
def test_an_answer_that_nobody_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SEND_SECONDS", 0.1)
    app = application()
    app.add_route("/large", lambda _: Response(bytes(2**25)))
    with live(app) as server, server.connect() as silent:
        silent.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        until(lambda: server.web.server_state.connections)
        until(lambda: not server.web.server_state.connections)


def received_events(connection: socket.socket) -> int:
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        found += connection.recv(4096)
    return found.count(b"event: ")


def test_behind_a_proxy_of_this_machine_clients_are_told_apart_and_its_connections_stay() -> None:
    with live(application(StandInEngine(), rate_limit=1)) as server:

        def ask(address: str, images: int = 1) -> int:
            body, said = {"prompt": "x", "n": images}, {"X-Forwarded-For": address}
            path = f"{server.url}/v1/images/generations"
            return httpx2.post(path, json=body, headers=said, timeout=PATIENCE).status_code

        assert [ask("192.0.2.1", 10), ask("192.0.2.1"), ask("192.0.2.2")] == [200, 429, 200]
        assert server.web.config.timeout_keep_alive > 60  # as long as most proxies wait before they close one


def test_stopping_finishes_what_was_accepted() -> None:
    engine = StandInEngine()
    engine.open_gate.clear()
    with live(application(engine)) as server, server.connect() as connection:
        connection.sendall(post({"prompt": "x", "seed": 3}))
        until(lambda: engine.batches)
        server.web.should_exit = True
        engine.open_gate.set()
        head, _, body = received(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body)["data"][0]["seed"] == 3
        server.stop()


def test_when_sampling_ends_everybody_is_told_and_health_says_so() -> None:
    with live(application(StandInEngine())) as server, httpx2.Client(base_url=server.url, timeout=PATIENCE) as client:
        assert client.post("/v1/images/generations", json={"prompt": "fatal"}).status_code == 503
        until(lambda: not server.server.sampling.is_alive())
        answer = client.post("/v1/images/generations", json={"prompt": "x"})
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert client.get("/healthz").status_code == 503
        assert client.get("/readyz").status_code == 503


CLIENTS, REQUESTS, KINDS = 64, 1000, 40


@pytest.mark.slow
def test_a_crowd_of_which_a_fifth_leaves_early() -> None:
    """1,000 requests of 64 clients: none is lost, none answered twice, all bytes are those of the image alone."""
    engine = StandInEngine()
    engine.clock = [0.0]
    app = application(engine, batch_size=8, queue_size=REQUESTS, timeout=3600.0)
    rows = [engine.row(Generation(prompt=f"prompt {seed}", seed=seed), SIZES[0]) for seed in range(KINDS)]
    alone = Order(Generation(prompt="x"), "tiny", rows, [], None)
    rng = random.Random(0)
    work = [(rng.randrange(KINDS), rng.random() < 0.2, rng.random() < 0.3) for _ in range(REQUESTS)]
    done: list[int] = []

    async def client(http: httpx2.AsyncClient) -> None:
        while work:
            seed, leaves, stream = work.pop()
            body = {"prompt": f"prompt {seed}", "seed": seed, "stream": stream, "partial_images": 1}
            if leaves:
                with suppress(TimeoutError):
                    await asyncio.wait_for(http.post("/v1/images/generations", json=body), rng.random() * 0.02)
                continue
            answer = await http.post("/v1/images/generations", json=body)
            assert answer.status_code == 200, answer.text
            if stream:
                events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
                (whole,) = [event["b64_json"] for event in events if event["type"].endswith("completed")]
            else:
                whole = answer.json()["data"][0]["b64_json"]
            assert whole == alone.encoded(State(seed, SCALES - 1, drawn(rows[seed], SCALES - 1), is_finished=True))
            done.append(seed)

    async def crowd(server: Live) -> None:
        limits = httpx2.Limits(max_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE, limits=limits) as http:
            await asyncio.gather(*(client(http) for _ in range(CLIENTS)))

    stay = sum(not leaves for _, leaves, _ in work)
    with live(app) as server:
        asyncio.run(crowd(server))
        assert len(done) == stay
        until(lambda: not server.server.scheduler._jobs)
        assert server.outcome("finished") >= stay
        assert stay <= server.outcome("finished") + server.outcome("cancelled") <= REQUESTS
        assert server.outcome("failed") == server.outcome("late") == 0
        assert max(map(len, engine.batches)) <= 8
