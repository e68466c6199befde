"""Images that are sent: which way up they are, and how many are decoded at once."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from hart.generation.canvas import redrawn_area
from hart.serving import bodies
from hart.serving.access import Room
from hart.serving.models import LAYOUTS_AT_ONCE
from serving_app import Running, edit, error, png, running
from waiting import PATIENCE, until


@pytest.fixture
def server() -> Iterator[Running]:
    with running(queue_size=6) as server:
        yield server


def test_image_and_mask_of_a_camera_held_upright_are_turned_once(server: Running) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    turned, upright = Image.new("RGBA", (32, 16), "red"), Image.new("RGBA", (16, 32), "red")
    turned.paste((9, 9, 9, 0), (0, 0, 4, 16))
    upright.paste((9, 9, 9, 0), (0, 0, 16, 4))
    files = []
    for image, tags in ((turned, exif), (upright, None)):
        file = io.BytesIO()
        image.save(file, "PNG", exif=tags)
        files.append(file.getvalue())
    for image in files:
        for mask in (None, *files):
            assert edit(server, image, mask).status_code == 200
            source = server.engine.batches[-1][0].edit
            assert source is not None and source.mask is not None
            assert source.image.size == (16, 32)
            for given in (source.image, source.mask):
                assert redrawn_area(source.image, given).tobytes() == b"\xff" * 64 + b"\0" * 448


def test_few_images_are_decoded_at_once_and_no_more_wait_than_in_the_queue(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edit(server, png()).status_code == 200  # the model is open
    decode, gate, begun = bodies.decoded, threading.Event(), threading.Semaphore(0)

    def decoded(*given: Any) -> Image.Image:
        begun.release()
        assert gate.wait(PATIENCE)
        return decode(*given)

    monkeypatch.setattr(bodies, "decoded", decoded)
    with ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(edit, server, png(), n="2") for _ in range(3)]
        for _ in range(LAYOUTS_AT_ONCE):
            assert begun.acquire(timeout=PATIENCE)
        until(lambda: not server.server._coming.left)
        refused = edit(server, png())
        assert error(refused, 429)["code"] == "queue_full" and int(refused.headers["retry-after"]) >= 1
        assert not begun.acquire(blocking=False)
        assert server.post(prompt="x").status_code == 429  # text waits for the same places
        gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
    assert server.post(prompt="x").status_code == 200


def test_bodies_that_wait_for_an_answer_take_bounded_memory(server: Running) -> None:
    server.server.bodies.room = Room(3000)
    gate = server.engine.open_gate
    gate.clear()
    with ThreadPoolExecutor(1) as client:
        held = client.submit(edit, server, png(), prompt="x" * 2000)
        until(lambda: server.engine.batches)
        refused = edit(server, png(), prompt="x" * 2000)
        assert error(refused, 503)["code"] == "overloaded" and int(refused.headers["retry-after"]) >= 1
        gate.set()
        assert held.result().status_code == 200
    assert edit(server, png()).status_code == 200
