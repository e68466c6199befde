"""The page in a real browser, against a running server with the shipped model: drawing, editing and varying."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

from hart.generation.metadata import read_record
from page_actions import draw, edit, expect, from_api, opened, pixels


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


def test_scales_keep_their_numbers_where_an_image_so_far_was_lost(page: Any) -> None:
    def with_gap(route: Any) -> None:
        events = route.fetch().text().split("\n\n")
        route.fulfill(body="\n\n".join(events[:1] + events[2:]), content_type="text/event-stream")

    opening = {"data": [{"id": "emoji", "state": "opening", "problem": None}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=opening))
    page.reload()  # as long as a model is being opened, nobody knows its scales
    page.route("**/v1/images/**", with_gap)
    draw(page, "a red apple")
    page.unroute_all()
    page.locator("#gallery .open").first.click()
    expect(page.locator("#kept-value")).to_have_text("3 of 6")
    for kept, shown in ((1, 1), (2, 1), (3, 3), (6, None)):
        page.locator("#kept").fill(str(kept))
        expect(page.locator("#scale-value")).to_have_text(f"{shown} of 6" if shown else "finished")


def test_another_shape_is_drawn_and_kept_in_the_settings(page: Any) -> None:
    page.get_by_label("Shape").select_option("16:9")
    draw(page, "a red apple", seed=1)
    width, height = page.locator("#gallery img").first.evaluate("e => [e.naturalWidth, e.naturalHeight]")
    assert width > 1.5 * height
    expect(page.locator("#note[role=status]")).to_contain_text("resize before or after.")  # the server's notes
    expect(page.get_by_role("alert")).to_be_empty()
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Shape")).to_have_value(f"{width}x{height}")


def test_two_prompts_are_mixed_and_come_back_with_the_settings(page: Any, address: str, tmp_path: Path) -> None:
    page.get_by_text("Mix in a second prompt").click()
    page.get_by_label("Second prompt").fill("a penguin")
    page.locator("#switch").fill("2")
    owl = "an owl, twemoji style"  # a style of the first prompt alone
    draw(page, owl, seed=1)
    wanted = opened(from_api(address, prompt=owl, second_prompt="a penguin", switch=2, seed=1))
    assert pixels(page, "#gallery img") == wanted != opened(from_api(address, prompt=owl, seed=1))
    page.locator("#gallery .open").first.click()
    expect(page.locator("#viewer-title")).to_have_text(f"{owl} + a penguin")
    expect(page.locator("#vary-words")).to_have_text(f"Drawn as “{owl}”, the first prompt.")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    page.get_by_role("button", name="Close").first.click()
    page.locator("#second").fill("")
    page.locator("#switch").fill("5")
    page.locator("#open-file").set_input_files(download.value.path())
    expect(page.locator("#prompt")).to_have_value(owl)
    expect(page.locator("#second")).to_have_value("a penguin")
    expect(page.locator("#switch")).to_have_value("2")
    expect(page.locator("#note")).to_be_empty()


def test_a_style_ends_the_prompt_and_comes_back_with_the_settings(page: Any, address: str) -> None:
    chip = page.get_by_role("group", name="Style").get_by_role("button", name="twemoji", exact=True)
    chip.click()
    draw(page, "a red apple", seed=1)
    wanted = from_api(address, prompt="a red apple, twemoji style", seed=1)
    assert pixels(page, "#gallery img") == opened(wanted)
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "false")
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red apple")
    expect(chip).to_have_attribute("aria-pressed", "true")


def test_a_prompt_in_a_script_from_right_to_left_is_written_so(page: Any) -> None:
    page.get_by_label("Prompt", exact=True).fill("تفاحة حمراء")
    expect(page.get_by_label("Prompt", exact=True)).to_have_css("direction", "rtl")
    page.get_by_label("Prompt", exact=True).fill("a red apple")
    expect(page.get_by_label("Prompt", exact=True)).to_have_css("direction", "ltr")


def test_a_long_prompt_leaves_the_viewer_its_buttons(page: Any) -> None:
    draw(page, "a smiling face " * 60)
    page.locator("#gallery li button").first.click()
    title = page.locator("#viewer-title")
    assert title.bounding_box()["height"] < 200
    assert title.evaluate("title => title.scrollHeight > title.clientHeight")  # it scrolls


def test_a_phone_in_light_and_dark(browser: Any, address: str, tmp_path: Path) -> None:
    small = {"viewport": {"width": 320, "height": 740}, "has_touch": True}
    context = browser.new_context(**small, reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    page.get_by_text("Ready", exact=True).wait_for()
    lines = page.evaluate("""() => {
        document.getElementById("gallery").append(Object.assign(document.createElement("li"), {className: "tile"}));
        const range = document.createRange();
        range.selectNodeContents(document.querySelector(".gallery-head h2"));
        return range.getClientRects().length;
    }""")
    assert lines == 1, "a word of a heading is not broken"
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        rgb = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
        assert (sum(rgb) < 200) == (scheme == "dark")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    page.locator("#open-file").set_input_files(tmp_path / "blue.png")
    edit(page)
    bar = page.locator("#edit-bar").bounding_box()
    assert bar["y"] + bar["height"] <= 740
    page.locator("#lend-file").set_input_files(tmp_path / "blue.png")
    page.get_by_label("Strength").last.wait_for()
    for control in page.locator("#editor .viewer-body").locator("button:enabled, input, textarea").all():
        if not control.is_visible():
            continue
        control.focus()
        box = control.bounding_box()
        assert box["y"] + box["height"] <= bar["y"]  # the bar covers nothing that has the focus
    page.locator("#editor .close").click()
    draw(page, "a red apple")
    assert page.locator("#current .tile").bounding_box()["y"] < 100, "images come to sight, above the form's end"
    context.close()


def test_words_stand_out_from_their_ground_in_light_and_dark(page: Any) -> None:
    faint = """() => {
        const over = (ground, [r, g, b, alpha = 1], seen) =>
            [r, g, b].map((value, i) => ground[i] + alpha * seen * (value - ground[i]));
        const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
        const linear = (value) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        const contrast = (element) => {
            const around = [];
            for (let one = element; one; one = one.parentElement) around.unshift(getComputedStyle(one));
            let ground = [255, 255, 255], seen = 1;
            for (const { backgroundColor, opacity } of around) {
                seen *= opacity;
                ground = over(ground, numbers(backgroundColor), seen);
            }
            const both = [ground, over(ground, numbers(around.at(-1).color), seen)].map(light);
            return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
        };
        const words = document.evaluate("//body//text()[normalize-space()]/..", document, null, 6);
        return Array.from({ length: words.snapshotLength }, (_, i) => words.snapshotItem(i))
            .filter((element) => element.checkVisibility() && !element.closest(":disabled, option"))
            .filter((element) => contrast(element) < 4.5).map((element) => element.outerHTML);
    }"""
    page.get_by_role("button", name="fluent", exact=True).click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(faint) == []
    page.emulate_media(color_scheme="null")


def test_everything_has_a_name_for_screen_readers(page: Any) -> None:
    draw(page, "a red apple")
    page.locator("#gallery .open").first.click()
    named = "e => (e.labels?.[0] ?? e).textContent || e.ariaLabel || e.alt || e.querySelector('img')?.alt"
    for role in ("button", "textbox", "spinbutton", "slider", "combobox", "img", "checkbox", "radio", "link"):
        for element in page.get_by_role(role).all():
            assert element.evaluate(named), element.evaluate("e => e.outerHTML")


def test_it_begins_with_examples_and_returns_to_them(page: Any) -> None:
    welcome = page.get_by_role("heading", name="What shall it be?")
    expect(welcome).to_be_visible()
    expect(page.get_by_role("heading", name="History")).to_be_hidden()
    page.locator("#count").fill("1")
    page.get_by_role("button", name="a red apple").click()
    page.locator("#current .tile:not(.drawing) .open").click()
    expect(welcome).to_be_hidden()
    page.get_by_label("Coarse to fine").focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Watch it grow").click()
    expect(page.locator("#scale-value")).to_have_text("finished")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(welcome).to_be_visible()  # once the browser's store has let go of the image
    expect(page.locator("#stage .tile")).to_have_count(0)


def test_painting_redraws_what_is_painted_alone(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    before = pixels(page, "#gallery img")
    page.locator("#gallery .open").first.click()
    edit(page)
    draws = page.get_by_role("button", name="Draw the edit")
    page.locator("#canvas").hover()
    brush = page.locator("#ring").bounding_box()["width"] / page.locator("#canvas").bounding_box()["width"]
    assert abs(brush - 1 / 8) < 0.02  # the ring is as large as what it paints
    expect(draws).to_be_disabled()  # nothing is painted
    page.get_by_role("button", name="Redraw all").click()
    expect(draws).to_be_enabled()
    page.get_by_role("button", name="Keep all").click()
    expect(draws).to_be_disabled()
    box = page.locator("#canvas").bounding_box()
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 4
    page.mouse.move(across, down + box["height"] / 2)
    page.mouse.down(button="right")  # opens a menu
    page.mouse.move(across - box["width"] / 4, down)
    page.mouse.up(button="right")
    expect(draws).to_be_disabled()
    page.mouse.down()
    page.mouse.move(across + box["width"] / 4, down, steps=5)
    page.mouse.up()
    page.get_by_label("What the whole image shows afterwards").fill("a blue fish")
    page.keyboard.down("Control")
    page.keyboard.down("Enter")
    expect(page.locator("#editor")).to_be_hidden()
    page.keyboard.down("Enter")  # held: draws no image of the form's in its place
    page.keyboard.up("Enter")
    page.keyboard.up("Control")
    page.locator("#gallery li").nth(1).wait_for()
    page.locator("#gallery .open").last.click()
    edit(page)
    draws.click()  # once more: what was painted and written is still there
    page.locator("#gallery li").nth(2).wait_for()
    lower_half = len(before) // 2
    for place in (1, 2):
        after = pixels(page, f"#gallery li:nth-child({place}) img")
        assert after != before
        assert after[lower_half:] == before[lower_half:]
    page.locator("#gallery .open").first.click()
    expect(page.get_by_text("Copy as")).to_be_hidden()  # a prompt alone does not make it again
    page.get_by_role("button", name="Older").click()
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("Copy as")).to_be_visible()


def test_the_keyboard_paints_where_its_cursor_stands(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    before = pixels(page, "#gallery img")
    page.locator("#gallery .open").first.click()
    edit(page)
    page.get_by_role("button", name="Right").click()
    page.locator("#canvas").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Control+z")
    expect(page.get_by_role("button", name="Draw the edit")).to_be_disabled()
    page.keyboard.press(" ")  # the last token of the first row
    page.keyboard.press("Control+Enter")
    page.locator("#gallery li").nth(1).wait_for()
    after = pixels(page, "#gallery img")
    assert len(after) == len(before)
    assert after[len(before) // 2 :] == before[len(before) // 2 :]


def test_the_editor_shows_the_image_and_its_button_wherever_one_scrolls(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    page.locator("#gallery .open").first.click()
    edit(page)
    for scrolled in (0, 10_000):
        page.locator("#editor").evaluate("(e, to) => e.scrollTo(0, to)", scrolled)
        for seen in ("#canvas", "#edit-draw"):
            box = page.locator(seen).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


def test_other_words_alone_change_what_they_say_otherwise(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    page.locator("#current .open").first.click()
    edit(page)
    page.get_by_label("What the whole image shows afterwards").fill("a green apple")
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(1).wait_for()
    expect(page.locator("#stage")).to_be_focused()  # the keyboard goes on where the new image is
    page.locator("#gallery .open").first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    record = read_record(Path(download.value.path()))
    assert record.settings.edit is not None
    assert (record.prompt, record.settings.edit.source_prompt) == ("a green apple", "a red apple")
    red, green, _ = ImageStat.Stat(Image.open(download.value.path())).mean
    assert green > red


def test_the_canvas_grows_and_variations_keep_the_coarse_scales(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    page.locator("#gallery .open").first.click()
    edit(page)
    page.get_by_role("button", name="Right").click()
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(1).wait_for()
    grown, own = page.locator("#gallery img").evaluate_all("all => all.map(e => e.naturalWidth)")
    assert grown == own * 5 / 4
    page.locator("#gallery .open").last.click()
    page.get_by_role("button", name="Draw variations").click()
    page.locator("#gallery li").nth(2).wait_for()
    page.locator("#gallery .open").last.click()
    edit(page)
    while (right := page.get_by_role("button", name="Right")).is_enabled():
        right.click()
    assert page.locator("#extend button:disabled").count() == 4
    expect(page.locator("#canvas-size")).to_have_text(re.compile("px: it grows no further"))


def test_a_grown_canvas_has_no_line_where_it_begins(page: Any, tmp_path: Path) -> None:
    side = int(page.locator("#size").input_value().split("x")[0])
    Image.new("RGB", (side, side), "blue").save(tmp_path / "night.png")
    page.locator("#open-file").set_input_files(tmp_path / "night.png")
    edit(page)
    page.get_by_role("button", name="Right").click()
    page.locator("#count").evaluate("input => input.value = 1")
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").first.wait_for()
    width = side * 5 // 4
    red = Image.frombytes("RGB", (width, side), pixels(page, "#gallery img")).getchannel("R")
    _, most = red.crop((side - 1, 0, side + 1, side)).getextrema()
    assert most < 128  # a quarter of it may be new


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
