"""A real, tiny model behind the server: the bytes of an image are those that it has alone."""

from __future__ import annotations

import base64
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from command_line import run
from hart.errors import HartError
from hart.generation.metadata import EditSource, read_record
from hart.inference.packing import treats_rows_alike
from hart.inference.speed import Speed
from hart.pipeline import HartPipeline
from hart.serving.engine import Row, Source
from hart.serving.options import ServeOptions
from hart.serving.pipeline_engine import PipelineEngine
from hart.serving.run import app_from_options
from hart.serving.schemas import Edit, Generation, Variation
from helpers import rows_computed
from serving_app import Running, edit, error, image_of, png, running

OWN: dict[str, Any] = {"guidance_scale": 2.0, "top_k": 5, "top_p": 0.9}


@pytest.fixture(scope="module")
def engine(text_model: Path) -> PipelineEngine:
    return PipelineEngine(HartPipeline.from_pretrained(text_model))


@pytest.fixture(scope="module")
def server(engine: PipelineEngine) -> Iterator[Running]:
    with running(models={"tiny": lambda: engine}) as started:
        yield started


def test_grouping_computes_nothing(text_model: Path) -> None:
    """The event loop groups; what has to be tried first is, while the model opens."""
    treats_rows_alike.cache_clear()
    engine = PipelineEngine(HartPipeline.from_pretrained(text_model))
    tried = treats_rows_alike.cache_info().misses
    engine.group(row(engine, 0))
    assert treats_rows_alike.cache_info().misses == tried


def row(engine: PipelineEngine, seed: int, prompt: str = "a cat", **settings: Any) -> Row:
    return engine.row(Generation(prompt=prompt, seed=seed, **settings), engine.facts.sizes[0])


def whole(engine: PipelineEngine, rows: list[Row], dropped: tuple[int, ...] = ()) -> list[bytes]:
    """Pixels of the rows, those of a group in one batch, but for those dropped after the first scale."""
    groups: dict[Hashable, list[int]] = {}
    for place, one in enumerate(rows):
        groups.setdefault(engine.group(one), []).append(place)
    found: dict[int, bytes] = {}
    for places in groups.values():
        batch, left = (
            engine.start([rows[place] for place in places]),
            [place for place in places if place not in dropped],
        )
        batch.advance()
        batch.drop([i for i, place in enumerate(places) if place in dropped])
        for _ in range(engine.facts.scales - 1 if left else 0):
            batch.advance()
        images = batch.images([places.index(place) for place in left]) if left else []
        found |= zip(left, (image.tobytes() for image in images), strict=True)
    return [found[place] for place in sorted(found)]


def nearly_equal(one: bytes, other: bytes) -> bool:
    """Whether pixels differ by rounding alone."""
    return len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 3  # of 255


@pytest.mark.parametrize("exact", [None, True])
def test_a_row_is_the_same_alone_in_any_batch_and_offline(engine: PipelineEngine, exact: bool | None) -> None:
    engine = PipelineEngine(engine.pipe, exact=exact)
    rows = [row(engine, 0), row(engine, 1, "a dog", **OWN), row(engine, 0, guidance_scale=0.0), row(engine, 3)]
    rows.append(row(engine, 0, negative_prompt="a dog"))
    together = whole(engine, rows)
    assert together == [whole(engine, [one])[0] for one in rows]
    assert whole(engine, rows[::-1]) == together[::-1]
    assert whole(engine, rows, dropped=(0, 2)) == [together[1], *together[3:]]
    assert len(set(together)) == 5
    assert row(engine, 0, negative_prompt="") == rows[0]
    offline = engine.pipe("a dog", seed=1, **OWN).images[0]
    assert together[1] == offline.tobytes()


def test_on_a_processor_rows_whose_rounding_depends_on_others_are_alone(
    engine: PipelineEngine, text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart.serving.pipeline_engine.treats_rows_alike", lambda: True)
    half = PipelineEngine(HartPipeline.from_pretrained(text_model, dtype="bfloat16"))
    for one, settings, is_shared in ((engine, {}, True), (engine, {"guidance_scale": 0.0}, False), (half, {}, False)):
        groups = {one.group(row(one, seed, **settings)) for seed in range(2)}
        assert len(groups) == (1 if is_shared else 2)


def test_a_negative_prompt_of_another_row_changes_nothing(emoji: HartPipeline) -> None:
    """At the widths of the shipped model: rounding that a tiny one does not show."""
    engine = PipelineEngine(emoji)
    rows = [row(engine, 0), row(engine, 1, "a house", negative_prompt="yellow"), row(engine, 2, "a dog")]
    assert whole(engine, rows) == [whole(engine, [one])[0] for one in rows]


def test_rows_whose_clients_have_left_are_not_computed_and_the_others_stay_as_they_are(
    emoji: HartPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = PipelineEngine(emoji, exact=False)
    names = ("an apple", "a fish", "a house", "a star", "a cat", "a tree")
    rows = [row(shipped, seed, name) for seed, name in enumerate(names)]
    alone = [whole(shipped, [rows[place]])[0] for place in (1, 4)]
    computed = rows_computed(monkeypatch)
    batch = shipped.start(rows)
    batch.drop([3])  # before the first scale
    for leaving in ((), (0,), (), (2, 5), *[()] * (shipped.facts.scales - 4)):
        batch.drop(leaving)
        batch.advance()
    images = [image.tobytes() for image in batch.images([1, 4])]
    assert all(map(nearly_equal, images, alone))
    # with the null half of guidance, the last scale twice
    assert sum(computed) == 2 * (4 + 4 + 2 * (shipped.facts.scales - 2))


def test_an_edit_keeps_every_pixel_outside_its_mask_and_shares_a_batch(engine: PipelineEngine) -> None:
    size = engine.facts.sizes[0]
    image = Image.effect_noise(size, 60).convert("RGB")
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    files = EditSource("image", "0" * 64)
    plain, masked = Source(image, None, None, files), Source(image, mask, None, files)
    lent = Source(image, mask, Image.effect_noise(size, 9).convert("RGB"), files)
    redrawn = Edit(prompt="a cat", seed=5)
    edited, restyled = (engine.row(redrawn, size, source) for source in (masked, lent))
    varied = engine.row(Variation(seed=5, kept_scales=1), size, plain)
    styled = engine.row(Variation(prompt="a cat", seed=5, style_strength=2.0), size, plain)
    followed = engine.row(Edit(prompt="a cat", seed=5, source_prompt="a dog", kept_scales=1), size, plain)
    mixed = row(engine, 5, second_prompt="a dog", switch=1)
    rows = [row(engine, 0), edited, varied, styled, restyled, followed, mixed]
    together = whole(engine, rows)
    assert together == [whole(engine, [one])[0] for one in rows]
    kept = (size[0] // 2, 0, *size)
    made = Image.frombytes("RGB", size, together[1])
    assert made.crop(kept).tobytes() == image.crop(kept).tobytes()
    assert together[1] == engine.pipe.edit(image, mask, "a cat", seed=5).images[0].tobytes()
    assert together[2] == engine.pipe.vary(image, kept_scales=1, seed=5).images[0].tobytes()
    assert together[3] == engine.pipe.vary(image, "a cat", style_strength=2, seed=5).images[0].tobytes()
    assert together[4] == engine.pipe.edit(image, mask, "a cat", style=lent.style, seed=5).images[0].tobytes()
    assert together[4] != together[1]
    halves = engine.row(Variation(seed=5), size, plain).settings.edit
    assert halves is not None and halves.kept_scales == engine.facts.scales // 2


def test_in_one_batch_as_on_a_gpu_a_row_is_the_same_to_rounding(engine: PipelineEngine) -> None:
    rows = [row(engine, 0), row(engine, 1, "a dog", guidance_scale=2.0, top_k=5), row(engine, 2, top_p=0.9)]
    alone = [whole(engine, [one])[0] for one in rows]
    as_there = PipelineEngine(engine.pipe, exact=False)
    for dropped in ((), (1,)):
        kept = [i for i in range(3) if i not in dropped]
        for i, found in zip(kept, whole(as_there, rows, dropped), strict=True):
            assert nearly_equal(found, alone[i])
    assert as_there.group(rows[0]) == as_there.group(rows[1]) != as_there.group(row(engine, 0, diffusion_steps=3))


@pytest.mark.parametrize(
    ("given", "size", "note"),
    [
        ({"size": "10x6"}, "10x6", "trained at 8x8 px only"),
        ({"size": "512x256"}, "12x6", "does not generate 512x256: this is 12x6"),
        ({"size": "512x512"}, "8x8", "does not generate 512x512: this is 8x8"),
        ({"size": "15x5"}, "16x4", "does not generate 15x5: this is 16x4 the model was trained at 8x8 px only"),
        ({"size": "99999x1"}, "8x8", "does not generate 99999x1: this is 8x8"),
        ({"aspect": "2:1"}, "12x6", "trained at 8x8 px only"),
    ],
)
def test_a_size_becomes_the_nearest_that_the_model_draws(
    server: Running, given: dict[str, str], size: str, note: str
) -> None:
    answer = server.post(prompt="x", **given).json()
    assert answer["size"] == size
    assert image_of(answer["data"][0]["b64_json"]).size == tuple(map(int, size.split("x")))
    assert note in " ".join(answer["notes"])


@pytest.mark.parametrize("size", [(10, 6), (30, 10), (200, 8)])
def test_an_edit_has_the_canvas_that_it_has_offline(
    server: Running, engine: PipelineEngine, size: tuple[int, int]
) -> None:
    answer = server.http.post("/v1/images/variations", files={"image": png(size)}).json()
    is_too_wide = size == (200, 8)  # for any canvas
    assert answer["size"] == ("8x8" if is_too_wide else engine.pipe.prepare_variation(Image.new("RGB", size)).size)
    is_another = answer["size"] != f"{size[0]}x{size[1]}"
    assert (f"the result has {answer['size']} px, about as many" in " ".join(answer["notes"])) == is_another


def test_generate_like_makes_a_served_image_again(server: Running, text_model: Path, tmp_path: Path) -> None:
    asked = {"prompt": "a cat", "negative_prompt": "a dog", "seed": 9, "size": "10x6", "diffusion_steps": 3, **OWN}
    content = server.post(**asked).json()["data"][0]["b64_json"]
    (tmp_path / "served.png").write_bytes(base64.b64decode(content))
    like = ("--like", tmp_path / "served.png", "--model", text_model, "--size", "10x6", "--out", tmp_path / "out")
    again = Image.open(run("generate", *like).stdout.strip())
    assert image_of(content).tobytes() == again.tobytes()


def test_a_served_image_has_the_settings_of_the_level_and_says_it(text_model: Path, tmp_path: Path) -> None:
    fast = HartPipeline.from_pretrained(text_model, speed=Speed(unguided_scales=2))
    assert row(PipelineEngine(fast), 0).settings.sampling.unguided_scales == 2
    options = ServeOptions(model=(f"tiny={text_model}",), speed="plain", public=True)
    with TestClient(app_from_options(options)) as http:
        answer = http.post("/v1/images/generations", json={"prompt": "a cat", "seed": 9}).json()
    served = tmp_path / "served.png"
    served.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    assert read_record(served).settings.speed == "plain"
    again = run("generate", "--like", served, "--model", text_model, "--out", tmp_path / "out").stdout.strip()
    assert Image.open(again).tobytes() == Image.open(served).tobytes()


def test_the_log_says_what_a_number_type_does_on_this_machine(
    text_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(("avx512_bf16", "amx_bf16"), False))
    options = ServeOptions(model=(f"tiny={text_model}",), dtype="bfloat16", public=True)
    with caplog.at_level("INFO", "hart"), TestClient(app_from_options(options)) as http:
        assert http.post("/v1/images/generations", json={"prompt": "a cat"}).status_code == 200
    assert f"model {text_model}: bfloat16 takes several times as long as float32" in caplog.text


def test_two_prompts_are_mixed_and_an_edit_may_follow_what_the_image_shows(
    server: Running, engine: PipelineEngine, text_model: Path, tmp_path: Path
) -> None:
    scales = engine.facts.scales
    choices: list[dict[str, Any]] = [{}, {"switch": 1}, {"weights": [0.5] * scales}]
    for given in choices:
        answer = server.post(prompt="a cat", second_prompt="a dog", seed=3, **given).json()
        mixed = engine.pipe.mix(["a cat", "a dog"], seed=3, **given).images[0].tobytes()
        assert image_of(answer["data"][0]["b64_json"]).tobytes() == mixed
    assert mixed != engine.pipe("a cat", seed=3).images[0].tobytes()
    (tmp_path / "mixed.png").write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    like = ("--like", tmp_path / "mixed.png", "--model", text_model, "--out", tmp_path / "out")
    assert Image.open(run("generate", *like).stdout.strip()).tobytes() == mixed
    for wrong in ({"switch": scales + 1}, {"weights": [0.5]}):
        refused = server.post(prompt="a cat", second_prompt="a dog", **wrong)
        assert refused.status_code == 400 and [refused.json()["error"]["param"]] == list(wrong)
    image = Image.effect_noise(engine.facts.sizes[0], 60).convert("RGB")
    image.save(tmp_path / "image.png")
    asked = {"prompt": "a cat", "source_prompt": "a dog", "seed": "4", "kept_scales": "1", "followed_scales": "2"}
    files = {"image": (tmp_path / "image.png").read_bytes()}
    answer = server.http.post("/v1/images/edits", data=asked, files=files).json()
    edited = engine.pipe.edit(
        image, None, "a cat", source_prompt="a dog", seed=4, kept_scales=1, followed_scales=2
    ).images[0]
    assert image_of(answer["data"][0]["b64_json"]).tobytes() == edited.tobytes()
    (tmp_path / "edited.png").write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    made = read_record(tmp_path / "edited.png").settings.edit
    assert made is not None
    assert (made.source_prompt, made.kept_scales, made.followed_scales) == ("a dog", 1, 2)


def test_what_the_model_cannot_sample_is_a_400(server: Running, engine: PipelineEngine) -> None:
    for wrong, param in (
        ({"maskgit_steps": 10**6}, "maskgit_steps"),
        ({"prompt": "\0"}, "prompt"),
        ({"guidance_scale": 0, "negative_prompt": "x"}, None),
        ({"second_prompt": "y", "switch": 1, "weights": [1]}, None),
    ):
        found = error(server.post(**({"prompt": "x"} | wrong)), 400)
        assert found["message"] and found["param"] == param


def test_a_class_model_takes_numbers(class_model: Path) -> None:
    engine = PipelineEngine(HartPipeline.from_pretrained(class_model))
    with running(models={"classes": lambda: engine}) as server:
        assert server.post(prompt="3").status_code == 200
        assert "give 0 to 5" in server.post(prompt="a cat").json()["error"]["message"]
        (model,) = server.http.get("/v1/models").json()["data"]
        assert model["classes"] == 6
        assert error(edit(server, png()), 501)["code"] == "not_offered"


def test_the_largest_image_is_bounded(engine: PipelineEngine) -> None:
    small = PipelineEngine(engine.pipe, max_pixels=64)
    for asked, sizes in (("10x8", ["10x8", "8x8"]), ("16x16", ["8x8", "8x8"])):
        assert [str(one.size(Generation(prompt="x", size=asked))[0]) for one in (engine, small)] == sizes
    with running(models={"small": lambda: small}) as server:
        answer = server.post(prompt="x", aspect="2:1").json()
        assert answer["size"] == "8x8" and answer["notes"] == ["the model does not generate 2:1 as 12x6: this is 8x8"]
        for param, given, why in (
            ("aspect", "2:1", "2:1 as 12x6: images have at most 64 pixels here (--max-pixels)"),
            ("size", "16x16", "16x16: images have at most 64 pixels here (--max-pixels)"),
            ("size", "7x8", "7x8: size 7x8: sides are multiples of 2 px"),
        ):
            refused = server.post(**{"prompt": "x", "strict": True, param: given})
            assert refused.status_code == 400 and refused.json()["error"]["param"] == param
            assert f"{param}: the model does not generate {why}" in refused.json()["error"]["message"]
    with pytest.raises(HartError, match="max-pixels 10"):
        PipelineEngine(engine.pipe, max_pixels=10)


@pytest.mark.parametrize("is_ours", [False, True])
def test_why_a_model_cannot_be_opened_is_for_the_log_and_not_for_clients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_ours: bool
) -> None:
    def missing() -> PipelineEngine:
        if is_ours:
            raise RuntimeError(tmp_path)
        return PipelineEngine(HartPipeline.from_pretrained(tmp_path / "none"))

    with running(models={"tiny": missing}) as server:
        said = "the model tiny cannot be opened; the server's log says why"
        health, ready = server.http.get("/healthz"), server.http.get("/readyz")
        assert health.status_code == ready.status_code == 503
        assert health.json() == {"status": "failed", "message": said}
        assert ready.json() == {"ready": False, "message": said, "models": {"tiny": "failed"}}
        answer = server.post(prompt="x")
        found = error(answer, 503)
        assert (found["code"], found["message"]) == ("model_unavailable", said) and "retry-after" in answer.headers
        (listed,) = server.http.get("/v1/models").json()["data"]
        assert str(tmp_path) not in answer.text + ready.text + str(listed), "paths are of this machine"
    assert ("an internal error" if is_ours else str(tmp_path / "none")) in caplog.text


def test_several_models_by_name(engine: PipelineEngine, class_model: Path) -> None:
    classes = PipelineEngine(HartPipeline.from_pretrained(class_model))
    with running(models={"text": lambda: engine, "classes": lambda: classes}) as server:
        assert server.http.get("/readyz").json()["models"] == {"text": "ready", "classes": "closed"}
        assert server.post(prompt="3", model="classes").json()["model"] == "classes"
        assert server.post(prompt="a cat", model="dall-e-3").json()["model"] == "text"
        assert server.http.get("/readyz").json()["models"]["classes"] == "ready"
