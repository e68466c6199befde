"""The page in a real browser, against a running server with the shipped model."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart.generation.metadata import MixSettings, read_record, write_image
from processes import started

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")

CHROMIUM = os.environ.get("HART_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: set HART_CHROMIUM or install one")

WAIT = 120_000
"""Milliseconds, for machines that are busy."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started("serve", "--port", 0) as server:
        yield server.said[0].readline().strip()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Any]:
    """One page for all tests, without animations, of which the browser would draw every frame."""
    sync_api.expect.set_options(timeout=WAIT)
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(WAIT)
    yield page
    context.close()


@pytest.fixture
def page(window: Any, address: str) -> Iterator[Any]:
    """The page of a newcomer when the model is ready. Its scripts may make no error and breach no security policy."""
    problems: list[str] = []
    listeners = {
        "pageerror": lambda error: problems.append(str(error)),
        "console": lambda message: problems.append(message.text) if "Refused" in message.text else None,
    }
    for event, listener in listeners.items():
        window.on(event, listener)
    opened_page(window, address)
    window.locator("#size option[value='128x128']").wait_for(state="attached")
    yield window
    window.unroute_all()
    window.goto("about:blank")  # which closes the browser's store
    session = window.context.new_cdp_session(window)
    session.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
    session.detach()
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    assert problems == []


def opened_page(page: Any, address: str) -> None:
    page.goto(address)
    page.get_by_text("Ready", exact=True).wait_for()


def draw(page: Any, prompt: str, count: int = 1, seed: int | None = None) -> None:
    """Draw from the keyboard alone, and wait until the images are in the history."""
    before = page.locator("#gallery li").count()
    page.locator("#count").fill(str(count))
    if seed is not None:
        page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")
    page.locator("#gallery li").nth(before + count - 1).wait_for()


def pixels(page: Any, selector: str) -> bytes:
    """What an <img> of the page shows, at its own size: RGB values."""
    script = """async (image) => {
        await image.decode();
        const size = {width: image.naturalWidth, height: image.naturalHeight};
        const canvas = Object.assign(document.createElement("canvas"), size);
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL("image/png").split(",")[1];
    }"""
    return opened(base64.b64decode(page.locator(selector).first.evaluate(script)))


def opened(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).convert("RGB").tobytes()


def from_api(address: str, **body: Any) -> bytes:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/v1/images/generations", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])


def test_an_image_appears_coarse_to_fine_and_is_that_of_the_api(page: Any, address: str) -> None:
    page.evaluate("""() => {
        globalThis.shown = new Set();
        new MutationObserver(() => {
            const image = document.querySelector("#current img");
            if (image) shown.add(image.src);
        }).observe(document.getElementById("current"), {subtree: true, childList: true, attributes: true});
    }""")
    draw(page, "a red apple", seed=7)
    assert page.evaluate("shown.size") >= 4  # three previews and the image
    assert pixels(page, "#gallery img") == opened(from_api(address, prompt="a red apple", seed=7))


def test_history_survives_a_reload_and_gives_settings_back(page: Any) -> None:
    draw(page, "a yellow star", count=2, seed=3)
    page.reload()
    page.locator("#gallery li").nth(1).wait_for()
    page.locator("#gallery .open").first.click()
    sync_api.expect(page.get_by_role("heading", name="a yellow star")).to_be_visible()
    page.get_by_label("Coarse to fine").focus()
    finished = pixels(page, "#viewer-image")
    page.keyboard.press("Home")  # the slider's first scale
    assert pixels(page, "#viewer-image") != finished
    page.get_by_role("button", name="Use these settings").click()
    sync_api.expect(page.get_by_label("Prompt", exact=True)).to_have_value("a yellow star")
    sync_api.expect(page.get_by_label("Seed", exact=True)).to_have_value("4")


def test_a_file_restores_its_settings_dropped_or_chosen(page: Any, address: str, tmp_path: Path) -> None:
    stored = tmp_path / "stored.png"
    stored.write_bytes(from_api(address, prompt="a blue fish", seed=2**53 + 1, guidance_scale=4, top_p=0.5))
    script = """bytes => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], "stored.png", {type: "image/png"}));
        return data;
    }"""
    data = page.evaluate_handle(script, list(stored.read_bytes()))
    page.locator("body").dispatch_event("drop", {"dataTransfer": data})
    sync_api.expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue fish")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.webp")
    page.locator("#open-file").set_input_files(tmp_path / "other.webp")
    page.get_by_role("heading", name="other.webp").wait_for()
    page.locator("#prompt").evaluate("e => e.value = 'something else'")
    page.locator("#open-file").set_input_files(stored)
    sync_api.expect(page.locator("#message")).to_be_hidden()  # nothing is missing
    record = read_record(stored)
    mixed = replace(record, settings=replace(record.settings, mix=MixSettings("a cat", (0.5,))))
    write_image(tmp_path / "mixed.png", Image.open(stored), mixed)
    page.locator("#open-file").set_input_files(tmp_path / "mixed.png")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("not the image's second prompt")
    page.get_by_text("More settings").click()
    wanted = {"Prompt": "a blue fish", "Seed": str(2**53 + 1)}
    for label, value in wanted.items():
        sync_api.expect(page.get_by_label(label, exact=True)).to_have_value(value)
    for field, value in {"#guidance": "4", "#top-p": "0.5"}.items():
        sync_api.expect(page.locator(field)).to_have_value(value)
    page.keyboard.press("Control+Enter")
    page.locator("#gallery li").nth(3).wait_for()
    page.locator("#gallery li:last-child .open").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    assert Path(download.value.path()).read_bytes() == stored.read_bytes()


def test_two_images_stand_side_by_side(page: Any) -> None:
    draw(page, "a red apple", count=3, seed=1)
    for place in range(3):  # the third takes the place of the first
        page.locator("#gallery .pick").nth(place).check(force=True)
    for tick, checked in zip(page.locator("#gallery .pick").all(), (False, True, True), strict=True):
        sync_api.expect(tick).to_be_checked(checked=checked)
    page.get_by_role("button", name="Compare two").click()
    sync_api.expect(page.locator("#comparison dd")).to_have_count(2)


def test_another_shape_is_drawn_and_kept_in_the_settings(page: Any) -> None:
    page.get_by_label("Shape").select_option("16:9")
    draw(page, "a red apple", seed=1)
    width, height = page.locator("#gallery img").first.evaluate("e => [e.naturalWidth, e.naturalHeight]")
    assert width > 1.5 * height
    sync_api.expect(page.get_by_role("alert")).to_contain_text("may be poor.")  # the server's notes
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Use these settings").click()
    sync_api.expect(page.get_by_label("Shape")).to_have_value(f"{width}x{height}")


def test_a_style_ends_the_prompt_and_comes_back_with_the_settings(page: Any, address: str) -> None:
    chip = page.get_by_role("group", name="Style").get_by_role("button", name="twemoji", exact=True)
    chip.click()
    draw(page, "a red apple", seed=1)
    wanted = from_api(address, prompt="a red apple, twemoji style", seed=1)
    assert pixels(page, "#gallery img") == opened(wanted)
    chip.click()
    sync_api.expect(chip).to_have_attribute("aria-pressed", "false")
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Use these settings").click()
    sync_api.expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red apple")
    sync_api.expect(chip).to_have_attribute("aria-pressed", "true")


def test_a_wrong_request_is_explained(page: Any) -> None:
    page.get_by_label("Prompt", exact=True).fill("x " * 400)
    page.route("**/v1/images/generations", lambda route: route.fulfill(
        status=400, json={"error": {"message": "prompt: too long", "type": "x", "param": "prompt", "code": None}}
    ))  # fmt: skip
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.get_by_role("alert")).to_have_text("Prompt: too long.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(browser: Any, address: str, scheme: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    opened_page(page, address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (red + green + blue < 200) == (scheme == "dark")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    page.locator("#open-file").set_input_files(tmp_path / "blue.png")
    page.get_by_role("button", name="Edit", exact=True).click()
    bar = page.locator("#edit-bar").bounding_box()
    assert bar["y"] + bar["height"] <= 740
    for control in page.locator("#editor .viewer-body").locator("button:enabled, input, textarea").all():
        control.focus()
        box = control.bounding_box()
        assert box["y"] + box["height"] <= bar["y"]  # the bar covers nothing that has the focus
    context.close()


def test_everything_has_a_name_for_screen_readers(page: Any) -> None:
    draw(page, "a red apple")
    page.locator("#gallery .open").first.click()
    named = "e => (e.labels?.[0] ?? e).textContent || e.ariaLabel || e.alt || e.querySelector('img')?.alt"
    for role in ("button", "textbox", "spinbutton", "slider", "combobox", "img", "checkbox", "radio", "link"):
        for element in page.get_by_role(role).all():
            assert element.evaluate(named), element.evaluate("e => e.outerHTML")


def test_painting_redraws_what_is_painted_alone(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    before = pixels(page, "#gallery img")
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    sync_api.expect(page.get_by_role("button", name="Draw the edit")).to_be_disabled()  # nothing is painted
    box = page.locator("#canvas").bounding_box()
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 4
    page.mouse.move(across - box["width"] / 4, down)
    page.mouse.down()
    page.mouse.move(across + box["width"] / 4, down, steps=5)
    page.mouse.up()
    page.get_by_label("What the whole image shows afterwards").fill("a blue fish")
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(1).wait_for()
    after = pixels(page, "#gallery img")
    lower_half = len(before) // 2
    assert after != before
    assert after[lower_half:] == before[lower_half:]
    page.locator("#gallery .open").first.click()
    sync_api.expect(page.get_by_text("Copy as")).to_be_hidden()  # a prompt alone does not make it again
    page.get_by_role("button", name="Older").click()
    sync_api.expect(page.get_by_text("Copy as")).to_be_visible()


def test_it_begins_with_examples_and_returns_to_them(page: Any) -> None:
    welcome = page.get_by_role("heading", name="What shall it be?")
    sync_api.expect(welcome).to_be_visible()
    sync_api.expect(page.get_by_role("heading", name="History")).to_be_hidden()
    page.locator("#count").fill("1")
    page.get_by_role("button", name="a red apple").click()
    page.locator("#current .tile:not(.drawing) .open").click()
    sync_api.expect(welcome).to_be_hidden()
    page.get_by_label("Coarse to fine").focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Watch it grow").click()
    sync_api.expect(page.locator("#scale-value")).to_have_text("finished")
    page.get_by_role("button", name="Delete", exact=True).click()
    sync_api.expect(welcome).to_be_visible()  # once the browser's store has let go of the image
    sync_api.expect(page.locator("#stage .tile")).to_have_count(0)


def test_the_canvas_grows_and_variations_keep_the_coarse_scales(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("button", name="Right").click()
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(1).wait_for()
    assert page.locator("#gallery img").first.evaluate("e => e.naturalWidth") == 160
    page.locator("#gallery .open").last.click()
    page.get_by_role("button", name="Draw variations").click()
    page.locator("#gallery li").nth(2).wait_for()


def test_an_image_of_others_is_there_to_be_edited_and_to_lend_its_colours(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (2048, 1024), "blue").save(tmp_path / "holiday.jpg")
    (tmp_path / "junk.png").write_text("no image")
    page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
    page.get_by_role("heading", name="holiday.jpg").wait_for()
    page.locator("#open-file").set_input_files(tmp_path / "junk.png")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("junk.png is not an image")
    sync_api.expect(page.get_by_role("dialog")).to_be_hidden()
    page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
    sync_api.expect(page.get_by_role("heading", name="holiday.jpg")).to_be_visible()
    sync_api.expect(page.locator("#message")).to_contain_text("only a PNG made by HART")
    sync_api.expect(page.get_by_role("button", name="Use these settings")).to_be_hidden()
    sync_api.expect(page.get_by_role("button", name="Draw in these colours")).to_be_visible()
    page.get_by_role("button", name="Edit", exact=True).click()
    sync_api.expect(page.locator("#canvas-size")).to_have_text(re.compile("512 . 256 px"))


def test_an_image_of_others_has_no_prompt_but_what_the_form_says(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (6000, 3000), "blue").save(tmp_path / "holiday.jpg", progressive=True)  # no server decodes it
    page.locator("#count").fill("1")
    drawings = [("Draw variations", ""), ("Draw in these colours", "twemoji style")]
    for place, (button, prompt) in enumerate(drawings):
        page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
        page.get_by_role("button", name=button).click()
        page.locator("#gallery li").nth(place).wait_for()
        page.locator("#gallery .open").first.click()
        sync_api.expect(page.locator("#viewer-title")).to_have_text(prompt or "no prompt")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download PNG").click()
        record = read_record(Path(download.value.path()))
        assert record.prompt == prompt
        page.get_by_role("button", name="Close").first.click()
        page.locator("#open-file").set_input_files(download.value.path())  # it says how it was made
        sync_api.expect(page.get_by_label("Seed", exact=True)).to_have_value(str(record.seed))
        sync_api.expect(page.get_by_role("alert")).to_contain_text("not the image's source image")
        page.get_by_label("Prompt", exact=True).fill("")
        page.get_by_role("group", name="Style").get_by_role("button", name="twemoji", exact=True).click()
    page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("button", name="Redraw all").click()
    page.get_by_label("What the whole image shows afterwards").fill("")
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(2).wait_for()


def test_something_else_is_drawn_in_the_colours_of_an_image(page: Any) -> None:
    draw(page, "a blue heart", seed=0)
    page.locator("#gallery .open").first.click()
    page.get_by_label("What to draw", exact=True).fill("a house")
    page.get_by_role("button", name="Draw in these colours").click()
    page.locator("#gallery li").nth(1).wait_for()
    page.locator("#gallery .open").first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    record = read_record(Path(download.value.path()))
    assert record.prompt == "a house" and record.settings.edit is not None
    assert (record.settings.edit.style_strength, record.settings.edit.kept_scales) == (1, 0)
