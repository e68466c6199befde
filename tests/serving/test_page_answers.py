"""What the page says when something goes wrong, and what it copies."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from command_line import run
from hart.errors import PromptWarning
from page_actions import draw, expect, from_api, opened, pixels


def test_a_wrong_request_is_explained(page: Any) -> None:
    page.locator("#prompt").fill("x" * 4001)
    page.locator("#prompt").press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("Prompt: must have at most 4000 characters.")
    expect(page.locator("#note")).to_be_empty()
    page.locator("#prompt").fill(" \n ")  # is no prompt: nothing is asked for
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#prompt:invalid")).to_have_value("")
    expect(page.locator("#stop")).to_be_disabled()


def test_a_wrong_field_that_is_folded_away_comes_to_sight(page: Any) -> None:
    page.locator("#prompt").fill("a red apple")
    page.locator("#top-k").evaluate("e => e.value = 70000")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#top-k")).to_be_focused()
    expect(page.locator("#top-k")).to_be_visible()


def test_an_answer_that_breaks_off_is_explained(page: Any) -> None:
    for end, said in (
        ("close()", "The answer ended before all images were drawn. Draw again."),
        ("error(new TypeError('network error'))", "The server cannot be reached. Is hart serve still running?"),
    ):
        stream = f"new ReadableStream({{start: (answer) => answer.{end}}})"
        page.evaluate(f"() => {{ globalThis.fetch = async () => new Response({stream}); }}")
        page.locator("#prompt").fill("a red apple")
        page.locator("#prompt").press("Control+Enter")
        expect(page.get_by_role("alert")).to_have_text(said)
        expect(page.locator("#current .tile")).to_have_count(0)


def test_a_server_that_is_gone_is_told_at_once_and_found_again(page: Any) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    page.locator("#prompt").fill("a red apple")
    page.locator("#prompt").press("Control+Enter")
    said = "The server cannot be reached. Is hart serve still running?"
    expect(page.get_by_role("alert")).to_have_text(said)
    expect(page.locator("#status")).to_have_text(said)
    failed = {"data": [{"id": "emoji", "state": "failed", "problem": "it cannot be opened"}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=failed))
    page.get_by_text("It cannot be opened.").wait_for()
    expect(page.get_by_role("alert")).to_be_empty()  # it is back, whatever its state
    page.unroute_all()


def test_a_server_that_is_started_again_changes_nothing_that_was_chosen(page: Any) -> None:
    page.locator("#styles button").last.click()
    page.locator("#size").select_option("16:9")
    page.locator("#guidance").evaluate("e => e.value = 4")
    opening = {"data": [{"id": "emoji", "state": "opening", "problem": None}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=opening))
    page.locator("#key").evaluate("e => { e.returnValue = 'ok'; e.dispatchEvent(new Event('close')); }")  # asks again
    page.get_by_text("Opening the model").wait_for()
    page.unroute("**/v1/models")
    page.get_by_text("Ready", exact=True).wait_for()
    expect(page.locator("#styles [aria-pressed=true]")).to_have_count(1)
    expect(page.locator("#size")).to_have_value("16:9")
    expect(page.locator("#guidance")).to_have_value("4")


def test_the_page_is_about_the_chosen_model_whose_prompts_may_be_classes(page: Any) -> None:
    expect(page.locator("#examples button").first).to_have_text("a red apple")
    with urllib.request.urlopen(f"{page.url}v1/models") as answer:
        models = json.load(answer)
    models["data"][0] |= {"classes": 6, "styles": [], "edits": False, "variations": False}
    models["data"].append({"id": "other", "state": "closed", "problem": None})
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.reload()
    expect(page.locator("#prompt")).to_have_attribute("placeholder", "a class, 0 to 5")
    expect(page.locator("#examples button")).to_have_text(["0", "2", "3", "5"])
    page.locator("#model").evaluate("e => { e.value = 'other'; e.dispatchEvent(new Event('change')); }")
    expect(page.locator("#status")).to_have_text("Not opened yet")
    expect(page.locator("#prompt")).to_have_attribute("placeholder", "a red apple")
    page.unroute("**/v1/models")


def test_as_many_images_are_offered_as_the_server_takes(page: Any) -> None:
    expect(page.locator("#count")).to_have_attribute("max", "8")
    with urllib.request.urlopen(f"{page.url}v1/models") as answer:
        models = json.load(answer)
    models["data"][0]["max_images"] = 3
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.reload()
    expect(page.locator("#count")).to_have_attribute("max", "3")
    expect(page.locator("#count")).to_have_value("3")
    page.unroute("**/v1/models")


def test_a_drawing_that_another_one_stops_is_said_to_be_gone(page: Any) -> None:
    page.locator("#prompt").fill("a red apple")
    page.route("**/v1/images/**", lambda route: None)  # which is never answered
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#stop")).to_be_enabled()
    expect(page.locator("#note")).to_be_empty()
    page.unroute("**/v1/images/**")
    page.locator("#count").fill("1")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#note")).to_contain_text("The drawing before was stopped")
    page.locator("#gallery li").wait_for()
    expect(page.locator("#note")).to_contain_text("The drawing before was stopped")


def test_a_wrong_key_is_said_to_be_wrong(page: Any) -> None:
    refusal = {"error": {"message": "give a valid API key"}}
    page.route("**/v1/models", lambda route: route.fulfill(status=401, json=refusal))
    page.reload()
    expect(page.locator("#status")).to_have_text("This server asks for an API key.")
    page.get_by_label("This server asks for a key").fill("wrong")
    expect(page.locator("#key-wrong")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.locator("#key-wrong")).to_be_visible()
    page.unroute("**/v1/models")
    page.get_by_label("This server asks for a key").fill("right")
    page.keyboard.press("Enter")
    page.get_by_text("Ready", exact=True).wait_for()
    expect(page.locator("#key")).to_be_hidden()


def test_a_key_is_asked_for_once_and_again_when_it_is_needed(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.clock.install()
    refusal = {"status": 401, "json": {"error": {"message": "give a valid API key"}}}
    page.route("**/v1/**", lambda route: route.fulfill(**refusal))
    page.goto(address)
    expect(page.locator("#key")).to_be_visible()
    page.keyboard.press("Escape")
    with page.expect_response("**/v1/models"):
        page.clock.fast_forward(10_000)
    failed = {"data": [{"id": "emoji", "state": "failed", "problem": "it cannot be opened"}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=failed))
    while page.locator("#status").inner_text() != "It cannot be opened.":  # what came before has been read
        page.clock.fast_forward(10_000)
    expect(page.locator("#key")).to_be_hidden()
    expect(page.locator("#key-button")).to_be_visible()
    page.unroute("**/v1/models")
    page.locator("#prompt").fill("a red apple")
    page.locator("#draw").click()
    expect(page.locator("#key")).to_be_visible()
    page.close()


def test_a_proxy_may_serve_the_page_below_another_path(page: Any, address: str) -> None:
    page.route(f"{address}/art/**", lambda route: route.continue_(url=route.request.url.replace("/art/", "/")))
    page.goto(f"{address}/art/")
    page.get_by_text("Ready", exact=True).wait_for()
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }; }")
    draw(page, "a red apple")
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="curl", exact=True).click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    assert f"curl {address}/art/v1/images/generations " in page.evaluate("copied")
    page.unroute_all()


def test_what_can_be_made_of_an_image_is_offered_once_the_model_of_the_form_is_open(page: Any, tmp_path: Path) -> None:
    with urllib.request.urlopen(f"{page.url}v1/models") as answer:
        emoji = json.load(answer)["data"][0]
    side = int(emoji["sizes"][0].split("x")[0])
    other = {**emoji, "id": "other", "token_size": side, "max_pixels": 4 * side**2, "variations": False}
    models = [{"id": "other", "state": "opening", "problem": None}, emoji]
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": models}))
    page.reload()
    page.locator("#model").evaluate("e => { e.value = 'other'; e.dispatchEvent(new Event('change')); }")
    page.get_by_text("Opening the model").wait_for()
    Image.new("RGB", (side, side), "blue").save(tmp_path / "blue.png")
    page.locator("#open-file").set_input_files(tmp_path / "blue.png")
    edits = page.get_by_role("button", name="Edit", exact=True)
    expect(edits).to_be_hidden()
    models[0] = other
    edits.click()
    page.get_by_role("button", name="Right").click()  # a token of this model
    expect(page.locator("#canvas-size")).to_have_text(re.compile(f"^{2 * side} . {side} px"))
    page.unroute_all()


def up_to_rounding(image: bytes, wanted: bytes) -> bool:
    """The server is another process, with another number of threads."""
    return max(abs(one - other) for one, other in zip(image, wanted, strict=True)) <= 3


def test_what_is_copied_draws_the_same_image(
    page: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }; }")
    page.locator("#negative").evaluate("e => e.value = '-green'")
    page.locator("#greedy").evaluate("e => e.value = 2")
    page.locator("#second").evaluate("e => e.value = 'a heart'")
    draw(page, '- a "red" apple\nof 5 $ \\n, that\'s all', seed=2**53 + 1)
    drawn = pixels(page, "#gallery img")
    page.locator("#gallery .open").first.click()
    copied = {}
    for kind, button in {"shell": "Command line", "python": "Python", "curl": "curl"}.items():
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator("#copied")).to_have_text("Copied.")
        copied[kind] = page.evaluate("copied")
    made = run(*shlex.split(copied["shell"])[1:])
    assert made.exit_code == 0
    assert up_to_rounding(opened(Path(made.stdout.strip()).read_bytes()), drawn)
    with pytest.warns(PromptWarning):
        exec(copied["python"], {})
    assert up_to_rounding(opened(Path("image.png").read_bytes()), drawn)
    _, url, *_, body, _, _, _, _ = shlex.split(copied["curl"])
    assert url == f"{address}/v1/images/generations"
    assert opened(from_api(address, **json.loads(body))) == drawn


def test_what_is_copied_shows_no_key_and_says_how_fast(page: Any) -> None:
    def fast(route: Any) -> None:
        answer = route.fetch()
        answer = {"data": [model | {"speed": "int8"} for model in answer.json()["data"]]}
        route.fulfill(json=answer)

    page.route("**/v1/models", fast)
    page.reload()
    page.get_by_text("Ready", exact=True).wait_for()
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }; }")
    page.locator("#key-value").evaluate("e => e.value = 'secret'")
    page.locator("#key").evaluate("e => { e.returnValue = 'ok'; e.dispatchEvent(new Event('close')); }")
    draw(page, "a red apple")
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="curl", exact=True).click()
    expect(page.locator("#copied")).to_have_text("Copied. It takes the key from the variable HART_API_KEY.")
    assert '-H "Authorization: Bearer $HART_API_KEY"' in page.evaluate("copied")
    for button, said in {"Command line": "--speed int8", "Python": 'speed="int8"'}.items():
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.locator("#copied")).to_have_text("Copied.")
        assert said in page.evaluate("copied")
    page.unroute("**/v1/models")
