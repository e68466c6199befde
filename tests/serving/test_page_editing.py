"""Editing and varying on the page, in a real browser, against a running server with the shipped model."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

from hart.generation.metadata import read_record
from page_actions import draw, drop, expect, from_api, pixels


def test_painting_redraws_what_is_painted_alone(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    before = pixels(page, "#gallery img")
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.get_by_role("button", name="Draw the edit")).to_be_disabled()  # nothing is painted
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
    expect(page.get_by_text("Copy as")).to_be_hidden()  # a prompt alone does not make it again
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("Copy as")).to_be_visible()


def test_other_words_alone_change_what_they_say_otherwise(page: Any) -> None:
    draw(page, "a red apple", seed=2)
    page.locator("#current .open").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
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
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("button", name="Right").click()
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(1).wait_for()
    grown, own = page.locator("#gallery img").evaluate_all("all => all.map(e => e.naturalWidth)")
    assert grown == own * 5 / 4
    page.locator("#gallery .open").last.click()
    page.get_by_role("button", name="Draw variations").click()
    page.locator("#gallery li").nth(2).wait_for()


def test_an_image_of_others_is_there_to_be_edited_and_to_lend_its_colours(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (2048, 1024), "blue").save(tmp_path / "holiday.jpg")
    (tmp_path / "junk.png").write_text("no image")
    page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
    page.get_by_role("heading", name="holiday.jpg").wait_for()
    page.locator("#open-file").set_input_files(tmp_path / "junk.png")
    expect(page.get_by_role("alert")).to_contain_text("junk.png is not an image")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
    expect(page.get_by_role("heading", name="holiday.jpg")).to_be_visible()
    expect(page.locator("#note")).to_contain_text("only a PNG made by HART")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.get_by_role("button", name="Use these settings")).to_be_hidden()
    expect(page.get_by_role("button", name="Draw in these colours")).to_be_visible()
    page.get_by_role("button", name="Edit", exact=True).click()
    side = int(page.locator("#size option").first.get_attribute("value").split("x")[0])
    expect(page.locator("#canvas-size")).to_have_text(re.compile(f"{4 * side} . {2 * side} px"))


def test_an_image_of_others_has_no_prompt_but_what_the_form_says(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (6000, 3000), "blue").save(tmp_path / "holiday.jpg", progressive=True)  # no server decodes it
    page.locator("#count").fill("1")
    drawings = [("Draw variations", ""), ("Draw in these colours", "twemoji style")]
    for place, (button, prompt) in enumerate(drawings):
        page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
        page.get_by_role("button", name=button).click()
        page.locator("#gallery li").nth(place).wait_for()
        page.locator("#gallery .open").first.click()
        expect(page.locator("#viewer-title")).to_have_text(prompt or "no prompt")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download PNG").click()
        record = read_record(Path(download.value.path()))
        assert record.prompt == prompt
        page.get_by_role("button", name="Close").first.click()
        page.locator("#open-file").set_input_files(download.value.path())  # it says how it was made
        expect(page.get_by_label("Seed", exact=True)).to_have_value(str(record.seed))
        expect(page.locator("#note")).to_contain_text("not the image's source image")
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


def test_a_file_dropped_on_the_editor_lends_its_colours_and_elsewhere_comes_to_the_front(
    page: Any, address: str, tmp_path: Path
) -> None:
    draw(page, "a green tree", seed=1)
    (tmp_path / "heart.png").write_bytes(from_api(address, prompt="a red heart", seed=0))
    page.locator("#gallery .open").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    drop(page, tmp_path / "heart.png")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green tree")
    expect(page.get_by_role("img", name="The image whose colours are taken")).to_be_visible()
    page.locator("#lend-strength").fill("2")
    page.get_by_role("button", name="Redraw all").click()
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(1).wait_for()
    page.locator("#gallery .open").first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    made = read_record(Path(download.value.path())).settings.edit
    assert made is not None and made.style_strength == 2
    assert made.style_sha256 == hashlib.sha256((tmp_path / "heart.png").read_bytes()).hexdigest()
    red, green, _ = ImageStat.Stat(Image.open(download.value.path())).mean
    assert red > green
    drop(page, tmp_path / "heart.png")  # on the viewer
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red heart")
