"""What is wrong with a request is said in OpenAI's form, and nothing of it is kept."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from hart.generation.canvas import redrawn_area
from hart.serving.bodies import JSON_BYTES, UPLOAD_BYTES
from hart.serving.checkers import word_list
from hart.serving.schemas import MAX_PROMPT
from image_files import jpeg_of_exif, jpeg_of_scans, png_of_parts
from serving_app import Running, edit, error, image_of, png, running
from stand_in_engine import FACTS, drawn


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as started:
        yield started


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "prompt", "prompt: is required"),
        ({"prompt": ""}, "prompt", "prompt: must have at least 1 character"),
        ({"prompt": "   "}, "prompt", "prompt: is empty"),
        ({"prompt": "x", "negative_prompt": "a\0b"}, "negative_prompt", "negative_prompt: holds a null byte"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "prompt", f"at most {MAX_PROMPT} characters"),
        ({"prompt": "x", "switch": 1}, "switch", "switch: requires second_prompt: give that too"),
        ({"prompt": "x", "second_prompt": "", "weights": [1]}, "weights", "weights: requires second_prompt"),
        ({"prompt": "x", "n": 11}, "n", "less than or equal to 10"),
        ({"prompt": "x", "n": "1"}, "n", "valid integer"),
        ({"prompt": "x", "steps": 4, "diffusion_steps": 8}, None, "steps is another name for diffusion_steps"),
        ({"prompt": "x", "steps": 101}, "diffusion_steps", "this server takes up to 100"),
        ({"prompt": "x", "size": "0x16"}, "size", "must be like 512x512, or auto"),
        ({"prompt": "x", "aspect": "1:0"}, "aspect", "must be like 16:9"),
        ({"prompt": "x", "aspect": "9:1"}, "aspect", "aspect '9:1': give width:height"),
        ({"prompt": "x", "aspect": "1:1", "size": "16x16"}, "aspect", "replaces a size"),
        ({"prompt": "x", "seed": 2**63 - 1}, "seed", "less than or equal to"),
        ({"prompt": "x", "guidance_scale": 1e400}, "guidance_scale", "finite number"),
        ({"prompt": "x", "second_prompt": "y", "weights": [1e400]}, "weights.0", "finite number"),
        ({"prompt": "x", "guidance_scale": 2000}, "guidance_scale", "guidance_scale must be at most 1,000"),
        ({"prompt": "x", "output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "x", "background": "transparent"}, "background", "'auto' or 'opaque'"),
    ],
)
def test_wrong_fields_are_named(server: Running, fields: dict[str, Any], param: str | None, message: str) -> None:
    body = json.dumps(fields).replace("Infinity", "1e400")
    answer = server.http.post("/v1/images/generations", content=body, headers={"content-type": "application/json"})
    found = error(answer, 400)
    assert found["param"] == param and message in found["message"] and "SamplingConfig" not in found["message"]
    assert found["type"] == "invalid_request_error"


def test_no_number_is_negative(server: Running) -> None:
    own = ("output_compression", "partial_images", "seed", "switch")
    sampling = ("guidance_scale", "top_k", "top_p", "maskgit_steps", "diffusion_steps", "greedy_scales")
    for name in (*own, *sampling, "unguided_scales"):
        answer = server.post(prompt="x", second_prompt="y", **{name: -1})
        assert error(answer, 400)["param"] == name


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"[1]", "application/json", 400, "the body must be an object"),
        (b"[" * 100_000, "application/json", 400, "the body is not valid JSON: "),
        (b'{"prompt": "\\ud800"}', "application/json", 400, "the body is not valid JSON: "),
        (b'{"prompt": "' + b"x" * JSON_BYTES + b'"}', "application/json", 413, "too large"),
        (b'{"prompt": "x"}', "text/plain", 415, "as JSON"),
    ],
)
def test_bodies_that_are_no_request(server: Running, content: bytes, kind: str, status: int, said: str) -> None:
    answer = server.http.post("/v1/images/generations", content=content, headers={"content-type": kind})
    assert said in error(answer, status)["message"]


PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
FORM = "multipart/form-data; boundary=x"


def form_of(prompt: bytes) -> bytes:
    return PART % (b"image", b'; filename="a.png"', png()) + PART % (b"prompt", b"", prompt) + b"--x--\r\n"


def test_text_of_a_form_that_is_no_utf_8_is_refused_as_that_of_json_is(server: Running) -> None:
    for prompt in (b"\xff\xfe", "caf\u00e9".encode("latin-1")):
        answer = server.http.post("/v1/images/edits", content=form_of(prompt), headers={"content-type": FORM})
        found = error(answer, 400)
        assert (found["param"], found["message"]) == ("prompt", "prompt: is not UTF-8: send text as UTF-8")


@pytest.mark.parametrize("charset", ["undefined", "latin-1", "none"])
def test_text_of_a_form_is_utf_8_whatever_the_form_calls_itself(server: Running, charset: str) -> None:
    headers = {"content-type": f"{FORM}; charset={charset}"}
    answer = server.http.post("/v1/images/edits", content=form_of("café".encode()), headers=headers)
    assert answer.status_code == 200 and server.engine.batches[-1][0].prompt == "café"


def test_a_form_that_breaks_off_is_refused_rather_than_read_without_its_last_part(server: Running) -> None:
    form = form_of(b"a red apple")
    for end in (len(form) - len(b"--x--\r\n"), form.index(b"a red apple"), len(form) - 3):
        answer = server.http.post("/v1/images/edits", content=form[:end], headers={"content-type": FORM})
        assert error(answer, 400)["message"] == "the form cannot be read: its last boundary is missing"


def test_a_text_that_is_a_file_and_a_file_that_is_text_are_refused(server: Running) -> None:
    files = {"image": ("a.png", png()), "prompt": ("prompt.txt", b"a red apple")}
    found = error(server.http.post("/v1/images/edits", files=files), 400)
    assert (found["param"], found["message"]) == ("prompt", "prompt: is a file: send it as text")
    texts = {"mask": "iVBORw0KGgo=", "image": "data:image/png;base64,", "style": "vivid"}
    for name, text in texts.items():
        found = error(server.http.post("/v1/images/edits", data={name: text}, files={"other": b"1"}), 400)
        assert (found["param"], found["message"]) == (name, f"{name}: is text: send it as a file")


def test_fields_of_another_request_are_not_dropped(server: Running) -> None:
    of_edits = {"source_prompt": "x", "kept_scales": 2, "image": "data:image/png;base64,", "mask": ["x"]}
    routes = {"generations": of_edits, "edits": {"second_prompt": "x", "weights": "1"}}
    for route, given in (
        routes | {"variations": {"source_prompt": "x", "followed_scales": "2", "switch": "1"}}
    ).items():
        for name, value in given.items():
            if route == "generations":
                answer = server.http.post(f"/v1/images/{route}", json={"prompt": "x", name: value})
            else:
                answer = edit(server, png(), route=route, **{name: value})
            found = error(answer, 400)
            assert found["param"] == name and "is a field of /v1/images/" in found["message"]
    assert error(edit(server, png(), HOLE, route="variations"), 400)["param"] == "mask"
    for nothing in (None, ""):
        body = {"prompt": "x", "source_prompt": nothing}
        assert server.http.post("/v1/images/generations", json=body).status_code == 200


@pytest.mark.parametrize(("name", "status"), [("", 200), ("b.png", 400)])
@pytest.mark.parametrize("route", ["edits", "variations"])
def test_a_file_that_was_not_chosen_is_none(server: Running, route: str, name: str, status: int) -> None:
    """A browser sends neither name nor content of it."""
    mask = f'--x\r\nContent-Disposition: form-data; name="mask"; filename="{name}"\r\n\r\n\r\n'
    image = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + png()
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = server.http.post(f"/v1/images/{route}", content=mask.encode() + image + b"\r\n--x--\r\n", headers=kind)
    assert answer.status_code == status


def test_chunks_without_a_length_are_counted(server: Running) -> None:
    chunks = (b" " * 1000 for _ in range(JSON_BYTES // 1000 + 2))
    answer = server.http.post("/v1/images/generations", content=chunks, headers={"content-type": "application/json"})
    error(answer, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/none", 404), ("GET", "/v1/models/a/b", 404), ("GET", "/v1/images/edits", 405)],
)
def test_other_addresses_and_methods(server: Running, method: str, path: str, status: int) -> None:
    error(server.http.request(method, path), status)


def test_a_slash_at_the_end_of_an_address_says_nothing(server: Running) -> None:
    for path in ("/v1/models", "/v1/models/tiny", "/healthz", "/style.css"):
        answer = server.http.get(f"{path}/", follow_redirects=False)
        assert answer.status_code == 200 and answer.content == server.http.get(path).content
    body = {"prompt": "x", "seed": 1}
    answers = [server.http.post(f"/v1/images/generations{end}", json=body, follow_redirects=False) for end in ("", "/")]
    assert answers[0].json()["data"] == answers[1].json()["data"]
    assert server.http.get("/metrics/", follow_redirects=False).status_code == 200


def test_head_is_get_without_a_body(server: Running) -> None:
    for path in ("/", "/healthz", "/v1/models"):
        asked, got = server.http.head(path), server.http.get(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
    refused = server.http.head("/v1/images/generations")
    assert refused.status_code == 405 and refused.headers["allow"] == "POST"


@pytest.mark.parametrize("field", ["prompt", "second_prompt"])
def test_a_refusal_is_said_and_nothing_is_drawn(server: Running, field: str) -> None:
    before = len(server.engine.batches)
    found = error(server.post(**{"prompt": "x", field: "F\u00f3rBidd\u200ben!"}), 400)
    assert (found["param"], found["code"]) == (field, "content_policy_violation")
    assert len(server.engine.batches) == before
    assert server.post(prompt="x", negative_prompt="forbidden").status_code == 200  # what shall not be there


def test_emoji_are_judged_by_their_names(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.server, "checker", word_list(["frog"]))
    for prompt in ("a frog", "a \N{FROG FACE}"):
        assert error(server.post(prompt=prompt), 400)["code"] == "content_policy_violation"


HOLE = png((16, 16), "RGBA", (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("image", "mask", "param", "message"),
    [
        (None, None, "image", "is required, as a file"),
        (b"not an image", None, "image", "not an image"),
        (png()[:-30], None, "image", "cannot be read as an image; it may be damaged or cut off"),
        (png((4097, 4096), "1", 0), None, "image", "make it smaller"),
        (png(kind="TIFF"), None, "image", "not an image"),
        (jpeg_of_scans(1000), None, "image", "save it again"),
        (jpeg_of_exif(1001), None, "image", "has more than 1,000 parts of EXIF"),
        (png_of_parts(b"iCCP", 17), None, "image", "has more than 16 colour profiles"),
        (b"\xff\xd8" + b"\xff" * 140_000, None, "image", "has too many parts"),
        (png(), png(), "mask", "has no pixels with alpha 0"),
        (png(), png((16, 16), "RGBA", (0, 0, 0, 1)), "mask", "has no pixels with alpha 0"),
        (png(), png((8, 8), "RGBA", (0, 0, 0, 0)), "mask", "has 8 x 8 px, the image 16 x 16"),
        (png(), b"\x89PNG\r\n\x1a\n", "mask", "not an image"),
    ],
)
def test_hostile_files(server: Running, image: bytes | None, mask: bytes | None, param: str, message: str) -> None:
    found = error(edit(server, image, mask), 400)
    assert found["param"] == param and message in found["message"]
    if param == "image" and image is not None:
        for route in ("edits", "variations"):
            found = error(edit(server, png(), style=image, route=route), 400)
            assert found["param"] == "style" and message in found["message"]


def test_a_mask_or_the_image_says_by_alpha_0_what_is_drawn_anew(server: Running) -> None:
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    half.paste((9, 9, 9, 1), (0, 4, 16, 8))
    half.paste((9, 9, 9, 0), (0, 0, 16, 4))
    file = io.BytesIO()
    half.save(file, "PNG")
    for image, mask in ((png(), file.getvalue()), (file.getvalue(), None)):
        assert edit(server, image, mask, n="2", seed="4").status_code == 200
        rows = server.engine.batches[-1]
        assert [row.seed for row in rows] == [4, 5]
        source = rows[0].edit
        assert source is not None and source.mask is not None and source.kept_scales is None
        assert redrawn_area(source.image, source.mask).tobytes() == b"\xff" * 64 + b"\0" * 192


@pytest.mark.parametrize("route", ["edits", "variations"])
def test_another_image_lends_its_colours(server: Running, route: str) -> None:
    mask = HOLE if route == "edits" else None
    assert edit(server, png(), mask, png((4, 4), colour="blue"), route, style_strength="2").status_code == 200
    source = server.engine.batches[-1][0].edit
    assert source is not None and source.style is not None and source.style_strength == 2
    assert source.style.tobytes() == bytes([0, 0, 255]) * 16 and source.files.style_sha256 != source.files.image_sha256
    assert (source.mask is None) == (route == "variations")


@pytest.mark.parametrize("alpha", [1, 255])
def test_an_image_with_an_alpha_channel_and_without_a_hole_has_no_mask(server: Running, alpha: int) -> None:
    assert edit(server, png((16, 16), "RGBA", (9, 9, 9, alpha))).status_code == 200
    source = server.engine.batches[-1][0].edit
    assert source is not None and source.mask is None


def test_an_edit_without_a_mask_says_what_the_image_shows(server: Running) -> None:
    assert edit(server, png(), source_prompt="a dog", followed_scales="2").status_code == 200
    source = server.engine.batches[-1][0].edit
    assert source is not None and (source.mask, source.source_prompt, source.followed_scales) == (None, "a dog", 2)
    assert error(edit(server, png(), source_prompt="forbidden"), 400)["param"] == "source_prompt"
    assert error(edit(server, png(), followed_scales="2"), 400)["param"] == "followed_scales"
    assert error(edit(server, png(), prompt="", source_prompt="a dog"), 400)["param"] == "source_prompt"


def test_variations_keep_scales_or_colours(server: Running) -> None:
    for given in ({}, {"kept_scales": 3}, {"style_strength": 1.5}):
        answer = edit(server, png(), route="variations", seed="1", **given)
        row = server.engine.batches[-1][0]
        assert row.edit is not None and row.edit.mask is None
        assert row.edit.kept_scales == given.get("kept_scales")
        assert row.edit.style_strength == given.get("style_strength")
        assert image_of(answer.json()["data"][0]["b64_json"]).tobytes() == drawn(row, FACTS.scales - 1).tobytes()


def test_a_form_that_is_too_large_or_broken(server: Running) -> None:
    error(edit(server, bytes(UPLOAD_BYTES)), 413)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    announced = headers | {"content-length": str(UPLOAD_BYTES + 1)}  # refused before it is sent
    error(server.http.post("/v1/images/edits", content=b"", headers=announced), 413)
    for content in (b"", b"--x\r\nrubbish", b"--y\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"):
        error(server.http.post("/v1/images/edits", content=content, headers=headers), 400)
    error(server.http.post("/v1/images/edits", content=b"1", headers={"content-type": "multipart/form-data"}), 400)
    many = [("image", (f"{i}.png", png(), "image/png")) for i in range(18)]
    error(server.http.post("/v1/images/edits", data={"prompt": "x"}, files=many), 400)


def test_an_upload_never_touches_the_disk(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    noise = Image.effect_noise((2000, 2000), 90)
    file = io.BytesIO()
    noise.save(file, "PNG")
    assert len(file.getvalue()) > 2**21
    assert edit(server, file.getvalue()).status_code == 200


def test_an_error_of_the_program_tells_and_logs_nothing_of_a_request(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="hart"):
        found = error(server.post(prompt="broken", negative_prompt="private"), 500)
    assert "secret" not in found["message"] and "broken" not in found["message"]
    said = "\n".join(record.getMessage() + str(record.exc_info) for record in caplog.records)
    assert "RuntimeError" in said and "stand_in_engine.py" in said
    assert "secret of [" not in said and "private" not in said


def test_every_answer_has_strict_headers(server: Running) -> None:
    for path in ("/", "/v1/models", "/v1/none"):
        headers = server.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
