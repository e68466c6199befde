"""What clients get for a prompt: the official client, unchanged, and other programs as they ask."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from PIL import Image

from hart.generation.metadata import read_record
from hart.serving import orders
from hart.serving.orders import Subscription, stream
from hart.serving.scheduler import State
from hart.serving.schemas import Generation
from serving_app import Running, image_of, png, running
from stand_in_engine import SCALES, SIZES, TOKENS, StandInEngine, drawn


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as started:
        yield started


def expected(
    server: Running, prompt: str, seed: int, k: int = SCALES - 1, size: Any = SIZES[0], **settings: Any
) -> bytes:
    """Pixels of a row."""
    return drawn(server.engine.row(Generation(prompt=prompt, seed=seed, **settings), size), k).tobytes()


def test_images_of_a_prompt(server: Running) -> None:
    asked = server.engine.asked
    answer = server.openai.images.generate(
        prompt="a cat", n=3, extra_body={"seed": 5, "guidance_scale": 2.0, "top_k": 0}
    )
    assert server.engine.asked == asked + 1  # whatever it checks is the same for all images
    assert (answer.size, answer.output_format, answer.background) == ("16x16", "png", "opaque")
    assert answer.usage is not None and answer.usage.total_tokens == 3 * TOKENS
    assert answer.data is not None
    assert [one.model_extra for one in answer.data] == [{"seed": seed} for seed in (5, 6, 7)]
    for one, seed in zip(answer.data, (5, 6, 7), strict=True):
        assert one.b64_json is not None
        assert image_of(one.b64_json).tobytes() == expected(server, "a cat", seed, guidance_scale=2.0, top_k=0)


def test_a_new_seed_is_told_and_gives_the_same_bytes_again(server: Running) -> None:
    first, second = (server.post(prompt="a cat").json()["data"][0] for _ in range(2))
    assert first["seed"] != second["seed"]
    again = server.post(prompt="a cat", seed=first["seed"]).json()["data"][0]
    assert again == first


def test_partial_images_are_intermediates_of_this_very_image(server: Running) -> None:
    events = list(server.openai.images.generate(prompt="a dog", stream=True, extra_body={"seed": 1, "n": 2}))
    for index, seed in enumerate((1, 2)):
        mine: list[Any] = [event for event in events if event.model_extra["image_index"] == index]  # type: ignore[index]
        assert [event.type for event in mine] == [*["image_generation.partial_image"] * 3, "image_generation.completed"]
        assert [event.partial_image_index for event in mine[:-1]] == [0, 1, 2]
        for k, event in enumerate(mine):
            assert image_of(event.b64_json).tobytes() == expected(server, "a dog", seed, k)
            assert (event.size, event.seed, event.scale, event.scales) == ("16x16", seed, k + 1, SCALES)
        assert mine[-1].usage.output_tokens == TOKENS
    whole = server.post(prompt="a dog", seed=1).json()["data"][0]["b64_json"]
    assert whole in [event.b64_json for event in events]


@pytest.mark.parametrize(("asked", "scales"), [(0, []), (1, [2]), (2, [1, 3]), (64, [1, 2, 3])])
def test_as_many_partial_images_as_asked_for(server: Running, asked: int, scales: list[int]) -> None:
    stream: Any = server.openai.images.generate(prompt="a dog", stream=True, partial_images=asked)
    assert [event.scale for event in stream] == [*scales, SCALES]


def test_signs_of_life_are_no_events(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.serving.app.STILL_HERE_SECONDS", 0.001)

    for is_counted in (True, False):
        server.engine.open_gate.clear()
        threading.Timer(0.05, server.engine.open_gate.set).start()
        if is_counted:
            events: Any = server.openai.images.generate(prompt="a dog", stream=True)
            assert [event.scale for event in events] == [1, 2, 3, SCALES]
        else:
            assert ": still here\n" in server.post(prompt="a dog", stream=True).text


def test_an_error_within_a_stream_is_an_error_of_the_client(server: Running) -> None:
    stream: Any = server.openai.images.generate(prompt="broken", stream=True)
    with pytest.raises(import_module("openai").APIError, match="an internal error"):
        list(stream)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats_say_how_the_image_was_made(server: Running, form: str, tmp_path: Any) -> None:
    fields = {"output_format": form, "negative_prompt": "fog", "seed": 3, "output_compression": 90}
    url = server.post(prompt="a cat", response_format="url", **fields).json()["data"][0]["url"]
    kind, content = url.split(",")
    assert kind == f"data:image/{form};base64"
    image = image_of(content)
    assert image.format == form.upper()
    said = json.dumps(image.info, default=str)
    assert "trainedAlgorithmicMedia" in said and "tiny" in said
    if form == "png":
        (tmp_path / "a.png").write_bytes(base64.b64decode(content))
        record = read_record(tmp_path / "a.png")
        assert (record.prompt, record.seed, record.model) == ("a cat", 3, "tiny")
        assert record.settings.negative_prompt == "fog" and record.settings.batch is None


def test_the_quality_is_the_best_or_as_asked(server: Running) -> None:
    def steps(**asked: int) -> int:
        answer = server.post(prompt="a cat", output_format="jpeg", **asked).json()
        return max(image_of(answer["data"][0]["b64_json"]).quantization[0])  # type: ignore[attr-defined]

    assert steps() == steps(output_compression=100) == 1 < steps(output_compression=80) < steps(output_compression=0)


def test_notes_name_what_the_model_does_not_know(server: Running) -> None:
    assert server.post(prompt="xyzzy").json()["notes"] == ['"xyzzy": unknown words']


OPEN_WEBUI = {"model": "dall-e-2", "prompt": "a cat", "n": 1, "size": "512x512", "response_format": "b64_json"}
LIBRECHAT = {"model": "gpt-image-1", "prompt": "a cat", "n": 1, "background": "auto", "quality": "auto", "size": "auto"}
LANGCHAIN = {"model": "dall-e-3", "prompt": "a cat", "n": 1, "size": "1024x1024", "quality": "standard"}


@pytest.mark.parametrize(
    ("body", "where"),
    [(OPEN_WEBUI, "b64_json"), (LIBRECHAT, "b64_json"), (LANGCHAIN, "url")],
    ids=["Open WebUI", "LibreChat", "LangChain"],
)
def test_what_other_programs_send(server: Running, body: dict[str, Any], where: str) -> None:
    answer = server.post(**body).json()
    assert image_of(answer["data"][0][where].removeprefix("data:image/png;base64,")).size == (16, 16)
    assert answer["model"] == "tiny"
    assert answer["notes"][0] == f"the model {body['model']} is not served: tiny was used"


def test_a_model_that_is_not_served_is_not_found(server: Running) -> None:
    openai = import_module("openai")
    before = len(server.engine.batches)
    for name, strict in (("tiny-2", False), ("tiny-2", True), ("dall-e-3", True)):
        with pytest.raises(openai.NotFoundError, match=f"there is no model {name}: GET /v1/models lists them") as said:
            server.openai.images.generate(prompt="x", model=name, extra_body={"strict": strict})
        assert (said.value.code, said.value.param) == ("model_not_found", "model")
    assert len(server.engine.batches) == before
    for name in ("tiny", "", None):
        assert server.post(prompt="x", model=name, strict=True).json()["notes"] == []


def test_a_model_may_have_a_name_of_openais() -> None:
    with running(models={"other": StandInEngine, "dall-e-3": StandInEngine}) as server:
        for strict in (True, False):
            answer = server.post(prompt="x", model="dall-e-3", strict=strict).json()
            assert (answer["model"], answer["notes"]) == ("dall-e-3", [])


def test_json_may_begin_with_a_byte_order_mark(server: Running) -> None:
    headers = {"content-type": "application/json"}
    answer = server.http.post("/v1/images/generations", content=b'\xef\xbb\xbf{"prompt": "x"}', headers=headers)
    assert answer.status_code == 200


def test_what_other_programs_send_to_edit(server: Running) -> None:
    fields = {"model": "gpt-image-1", "prompt": "a cat", "quality": "auto", "size": "auto"}
    for name in ("image", "image[]"):
        answer = server.http.post("/v1/images/edits", data=fields, files=[(name, ("a.png", png(), "image/png"))])
        assert answer.status_code == 200
        assert image_of(answer.json()["data"][0]["b64_json"]).size == (16, 16)
    several = [("image[]", ("a.png", png(colour=colour), "image/png")) for colour in ("blue", "red")]
    assert server.http.post("/v1/images/edits", data=fields, files=several).status_code == 200
    edited: Any = server.engine.batches[-1][0].edit
    assert edited.image.getpixel((0, 0)) == (0, 0, 255)  # of the first


def test_models_are_listed_with_what_they_draw(server: Running) -> None:
    (model,) = server.openai.models.list()
    assert model.id == "tiny" and server.openai.models.retrieve("tiny") == model
    about: Any = model.model_extra
    assert about["sizes"] == ["16x16", "32x16", "16x32"] and about["scales"] == SCALES
    assert about["token_size"] == 8 and about["styles"] == ["blue style"]


@pytest.mark.parametrize(("slow", "scales"), [(-1.0, [1, SCALES]), (1e9, [1, 2, 3, SCALES])])
def test_whoever_reads_slowly_gets_a_finished_image_next(
    server: Running, monkeypatch: pytest.MonkeyPatch, slow: float, scales: list[int]
) -> None:
    monkeypatch.setattr(orders, "SLOW_SECONDS", slow)
    asked = Generation(prompt="x", seed=0)
    row = server.engine.row(asked, SIZES[0])

    async def read() -> list[int]:
        events = Subscription()
        for k in range(SCALES):
            events.deliver(State(0, k, drawn(row, k), is_finished=k == SCALES - 1))
        told = stream(orders.Order(asked, "tiny", [row], [], None), events, server.server.metrics)
        return [event["scale"] async for event in told if event is not None]

    assert asyncio.run(read()) == scales


def test_a_slow_reader_gets_the_newest_previews_and_holds_no_more_memory() -> None:

    async def read() -> list[Any]:
        events, large = Subscription(), Image.new("L", (4096, 1024))
        for k in range(8):
            for row in (0, 1):
                events.deliver(State(row, k, large, is_finished=k == 7 and row == 0))
        await asyncio.sleep(0)
        first = await events.next()
        events.keep_newest()
        return [first, await events.next(), await events.next()]

    # five are too many: the newest are kept, at last those after the seventh scale, then one more of each image
    assert [(event.row, event.k) for event in asyncio.run(read())] == [(0, 6), (1, 7), (0, 7)]
