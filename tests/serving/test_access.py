"""Who may use a server, and how much of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hart.serving.access import Access
from serving_app import error, running
from stand_in_engine import StandInEngine
from waiting import PATIENCE, until


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right"}])
def test_a_key_is_needed_where_there_are_keys(given: dict[str, str]) -> None:
    with running(api_key=("right", "other")) as server:
        for path in ("/v1/models", "/metrics", "/metrics/"):
            refused = server.http.get(path, headers=given)
            assert error(refused, 401) and refused.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/healthz", "/readyz"):
            assert server.http.get(path, headers=given).status_code == 200
        for right in ({"authorization": "Bearer other"}, {"api-key": "right"}):
            assert server.http.get("/v1/models", headers=right).status_code == 200
            foreign = {"origin": "http://evil.example"} | right
            assert server.http.post("/v1/images/generations", json={"prompt": "x"}, headers=foreign).status_code == 200


def test_pages_of_others_cannot_use_a_server_on_this_machine() -> None:
    with running(host="127.0.0.1") as server:
        body, server.http.base_url = {"prompt": "x"}, "http://localhost"  # type: ignore[assignment]
        for headers, status in (
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "null"}, 403),
            ({"origin": "http://[::1"}, 403),
            ({"host": "evil.example"}, 403),
            ({"host": "["}, 403),
            ({"origin": "http://localhost"}, 200),
            ({"origin": "https://localhost", "host": "localhost:443"}, 200),
            ({"origin": "https://localhost", "host": "localhost:80"}, 403),
            ({"origin": "null", "host": ""}, 403),
        ):
            answer = server.http.post("/v1/images/generations", json=body, headers=headers)
            assert answer.status_code == status
            assert "access-control-allow-origin" not in answer.headers
        assert server.http.get("/v1/models", headers={"origin": "http://evil.example"}).status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("unknown", "unknown", True),
    ],
)
def test_who_takes_another_address_of_its_network_is_the_same_client(one: str, other: str, same: bool) -> None:
    def client(address: str) -> str:
        return Access().client({"type": "http", "method": "POST", "path": "/", "headers": [], "client": (address, 1)})

    assert (client(one) == client(other)) is same


def test_a_rate_limit_is_a_clients_own() -> None:
    clock = [0.0]
    is_read = threading.Event()

    class Reading(StandInEngine):
        def remarks(self, prompt: str) -> list[str]:
            assert prompt != "long" or is_read.wait(PATIENCE)
            return super().remarks(prompt)

    with running(Reading(), api_key=("a", "b", "c"), rate_limit=6) as server:
        server.server.rates._clock = lambda: clock[0]

        def ask(key: str, n: int, prompt: str = "x") -> Any:
            headers = {"authorization": f"Bearer {key}"}
            return server.http.post("/v1/images/generations", json={"prompt": prompt, "n": n}, headers=headers)

        assert [ask("a", n).status_code for n in (4, 4)] == [200, 200]
        refused = ask("a", 1)
        assert error(refused, 429)["code"] == "rate_limit_exceeded" and refused.headers["retry-after"] == "21"
        assert ask("b", 1).status_code == 200
        clock[0] = 21
        assert ask("a", 1).status_code == 200
        for _ in range(2):
            error(ask("c", 10, "forbidden"), 400)  # what is refused costs nothing
        with ThreadPoolExecutor(3) as pool:  # at once, while none is accepted yet
            asked = [pool.submit(ask, "c", 10, "long") for _ in range(3)]
            until(lambda: sum(answer.done() for answer in asked) == 2)
            is_read.set()
        assert sorted(answer.result().status_code for answer in asked) == [200, 429, 429]
        clock[0] = 1000
        assert ask("b", 1).status_code == 200
        assert len(server.server.rates._free_at) == 1  # of the others nothing is remembered
