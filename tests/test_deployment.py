"""Dockerfile, compose and Kubernetes files fit the server: its options, port, paths and time to stop."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import typer
import yaml

from hart.cli import app
from hart.errors import HartError
from live_server import live
from serving_app import application
from waiting import until

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
DEPLOYMENT, SERVICE = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PATHS = set(application().openapi()["paths"])


def instruction(name: str) -> str:
    (found,) = re.findall(rf"^{name} (.+)", DOCKERFILE, re.MULTILINE)
    return str(found)


ENTRYPOINT = json.loads(instruction("ENTRYPOINT"))


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What `hart serve` reads; raises for options that it has not."""
    assert ENTRYPOINT[:2] == ["hart", "serve"]
    group: Any = typer.main.get_command(app)
    command = group.get_command(group.make_context("hart", [], resilient_parsing=True), "serve")
    found: dict[str, Any] = command.make_context("serve", [*ENTRYPOINT[2:], *arguments]).params
    return found


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


@pytest.mark.parametrize(
    ("arguments", "mounted"),
    [
        (json.loads(instruction("CMD")), "/run/secrets/hart_keys"),
        (COMPOSE["services"]["hart"]["command"], f"/run/secrets/{COMPOSE['services']['hart']['secrets'][0]}"),
        (CONTAINER["args"], f"{CONTAINER['volumeMounts'][0]['mountPath']}/keys"),
    ],
    ids=["docker", "compose", "kubernetes"],
)
def test_the_server_has_the_options_and_needs_a_key(arguments: list[str], mounted: str) -> None:
    options = parsed(arguments)
    assert options["host"] == "0.0.0.0" and not options["public"]
    assert options["port"] == 8000 == int(instruction("EXPOSE"))
    assert str(options["api_key_file"]) == mounted


def test_all_that_is_copied_is_there_and_not_ignored() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for copied in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists() and f"!{source}" in kept


def test_probes_ask_for_paths_that_there_are_at_the_port() -> None:
    port = CONTAINER["ports"][0]
    assert port["containerPort"] == 8000 and SERVICE["spec"]["ports"][0]["targetPort"] == port["name"]
    for name in ("readinessProbe", "livenessProbe"):
        asked = CONTAINER[name]["httpGet"]
        assert asked["path"] in PATHS and asked["port"] == port["name"]
    (url,) = re.findall(r"http://127\.0\.0\.1:8000(/\w+)", instruction("HEALTHCHECK"))
    assert url in PATHS
    assert COMPOSE["services"]["hart"]["ports"] == ["127.0.0.1:8000:8000"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("is_broken", [False, True])
def test_compose_ends_what_must_be_started_again(monkeypatch: pytest.MonkeyPatch, *, is_broken: bool) -> None:
    def missing() -> Any:
        raise HartError("no model here")

    ended = list[tuple[int, int]]()
    monkeypatch.setattr(os, "kill", lambda *given: ended.append(given))
    _, _, _, code = COMPOSE["services"]["hart"]["healthcheck"]["test"]
    assert COMPOSE["services"]["hart"]["restart"] == "unless-stopped"
    with live(application(models={"tiny": missing} if is_broken else None)) as server:
        until(lambda: server.server.models.default.state in ("ready", "failed"))
        with pytest.raises(HTTPError) if is_broken else nullcontext():
            exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), {})
    assert ended == ([(1, signal.SIGTERM)] if is_broken else [])


def test_it_has_time_to_finish_what_it_accepted() -> None:
    (given,) = re.findall(r"^#   docker run .*--stop-timeout (\d+) ", DOCKERFILE, re.MULTILINE)
    assert int(given) > parsed(json.loads(instruction("CMD")))["timeout"]
    compose = COMPOSE["services"]["hart"]
    assert seconds(compose["stop_grace_period"]) > parsed(compose["command"])["timeout"]
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > before + parsed(CONTAINER["args"])["timeout"]


def test_models_of_the_hub_have_a_place_that_can_be_written() -> None:
    name, cache = instruction("ENV").split("=")
    assert name == "HF_HOME" and f"install --directory --owner hart {cache}" in instruction("RUN useradd")
    compose = COMPOSE["services"]["hart"]
    assert compose["read_only"] and compose["volumes"] == [f"cache:{cache}"] and "cache" in COMPOSE["volumes"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] and "fsGroup" in POD["securityContext"]
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounted[cache] in {volume["name"] for volume in POD["volumes"] if "emptyDir" in volume}


def test_nobody_is_root() -> None:
    user = instruction("USER")
    assert f"--uid {user}" in DOCKERFILE
    assert POD["securityContext"]["runAsUser"] == int(user)
