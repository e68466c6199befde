"""Files that come to the page: dropped, chosen, or from the clipboard."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

from hart.checkpoint.loading import load_config
from hart.generation.canvas import canvas_schedule
from hart.generation.metadata import MixSettings, read_record, write_image, write_sheet
from hart.sizes import size_of_schedule
from page_actions import draw, drop, edit, expect, from_api, pixels
from serving_app import png

PASTE = """([place, bytes, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(bytes)], "clip.png", {type: "image/png"}));
    if (text) data.setData("text/plain", text);
    const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
    return document.querySelector(place).dispatchEvent(event);
}"""
"""Returns whether the browser is left to paste."""


def test_a_file_restores_its_settings_dropped_or_chosen(page: Any, address: str, tmp_path: Path) -> None:
    stored = tmp_path / "stored.png"
    stored.write_bytes(
        from_api(address, prompt="a blue fish", seed=2**53 + 1, guidance_scale=4, top_p=0.5, greedy_scales=2)
    )
    drop(page, stored)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue fish")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.webp")
    page.locator("#open-file").set_input_files(tmp_path / "other.webp")
    page.get_by_role("heading", name="other.webp").wait_for()
    page.locator("#prompt").evaluate("e => e.value = 'something else'")
    page.locator("#open-file").set_input_files(stored)
    expect(page.locator("#note")).to_be_empty()  # nothing is missing
    record = read_record(stored)
    sampling = record.settings.sampling.replace(diffusion_steps=3)
    for name, model, changes, said in (
        ("mixed", "emoji", {"mix": MixSettings("a cat", (0.5,))}, "not the shares of the second prompt: they"),
        (
            "tuned",
            "/my/emoji",
            {"loras": ("runs/cats/model", "runs/dogs/model")},  # what training calls both
            "not the adapter runs/cats/model, runs/dogs/model: they draw another image.$",
        ),
        (
            "other",
            "org/big",
            {"speed": "int8", "sampling": sampling},  # which are not the server's
            "not the speed int8, nor diffusion_steps 3: they",
        ),
        (
            "fine",
            "emoji",
            {"sampling": record.settings.sampling.replace(guidance_scale=15, top_p=0.72)},  # which no slider takes
            "not guidance_scale 15, nor top_p 0.72: they draw another image.$",
        ),
        ("else", "org/big", {}, "^They are of the model org/big, which this server does not have: emoji will draw"),
    ):
        settings = record.settings.replace(**changes)
        write_image(tmp_path / f"{name}.png", Image.open(stored), replace(record, model=model, settings=settings))
        page.locator("#open-file").set_input_files(tmp_path / f"{name}.png")
        expect(page.locator("#note")).to_have_text(re.compile(said))
    expect(page.get_by_role("alert")).to_be_empty()  # nothing has failed
    page.get_by_text("More settings").click()
    wanted = {"Prompt": "a blue fish", "Seed": str(2**53 + 1)}
    for label, value in wanted.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    for field, value in {"#guidance": "4", "#top-p": "0.5", "#greedy": "2"}.items():
        expect(page.locator(field)).to_have_value(value)
    page.keyboard.press("Control+Enter")
    page.locator("#gallery li").nth(3).wait_for()
    page.locator("#gallery li:last-child .open").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    assert Path(download.value.path()).read_bytes() == stored.read_bytes()


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
    expect(page.get_by_role("slider", name="Coarse to fine")).to_be_hidden()
    edit(page)
    expect(page.locator("#canvas-size")).to_have_text(re.compile("^512 . 256 px"))  # of which the server makes less
    page.get_by_role("button", name="Right").click()
    page.locator("#count").evaluate("input => input.value = 1")
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").wait_for()
    config = load_config("emoji")
    size = size_of_schedule(config, canvas_schedule(config, Image.new("1", (640, 256))))
    drawn = page.locator("#gallery img").first.evaluate("e => [e.naturalWidth, e.naturalHeight]")
    assert drawn == list(size)  # as by the command
    expect(page.locator("#note")).to_contain_text(f"The result has {size} px")


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
        expect(page.locator("#scale-value")).to_have_text("finished")  # the file before had no scales
        with page.expect_download() as download:
            page.get_by_role("link", name="Download PNG").click()
        record = read_record(Path(download.value.path()))
        assert record.prompt == prompt
        # the shape of the file, which is then the form's too
        assert page.locator("#gallery img").first.evaluate("image => image.naturalWidth > image.naturalHeight")
        page.get_by_role("button", name="Close").first.click()
        page.locator("#open-file").set_input_files(download.value.path())  # it says how it was made
        expect(page.get_by_label("Seed", exact=True)).to_have_value(str(record.seed))
        expect(page.locator("#note")).to_contain_text("not the image's source image")
        page.get_by_label("Prompt", exact=True).fill("")
        page.get_by_role("group", name="Style").get_by_role("button", name="twemoji", exact=True).click()
        Image.new("RGB", (2048, 1024), "blue").save(tmp_path / "holiday.jpg")
    page.locator("#open-file").set_input_files(tmp_path / "holiday.jpg")
    edit(page)
    page.get_by_role("button", name="Redraw all").click()
    page.get_by_label("What the whole image shows afterwards").fill("")
    page.get_by_role("button", name="Draw the edit").click()
    page.locator("#gallery li").nth(2).wait_for()


def test_the_words_of_an_edit_are_not_those_of_the_form_and_those_of_a_variation_are_shown(
    page: Any, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "holiday.png")
    page.locator("#open-file").set_input_files(tmp_path / "holiday.png")
    expect(page.locator("#vary-words")).to_have_text("Drawn without words: the form has no prompt.")
    expect(page.get_by_label("What to draw")).to_have_attribute("placeholder", "whatever fits")
    page.get_by_role("button", name="Close").first.click()
    draw(page, "a green turtle", seed=0)
    page.locator("#open-file").set_input_files(tmp_path / "holiday.png")
    expect(page.locator("#vary-words")).to_have_text("Drawn as “a green turtle”, the form's prompt.")
    expect(page.get_by_label("What to draw")).to_have_attribute("placeholder", "a green turtle")
    edit(page)
    for label in ("What the image shows now", "What the whole image shows afterwards"):
        expect(page.get_by_label(label)).to_have_value("")
    page.get_by_label("What the whole image shows afterwards").fill("a red turtle")
    expect(page.get_by_role("button", name="Draw the edit")).to_be_disabled()  # until somebody says what it shows
    page.locator("#editor .close").click()
    page.locator("#gallery .open").first.click()
    expect(page.locator("#vary-words")).to_be_empty()  # the title says it
    edit(page)
    expect(page.get_by_label("What the image shows now")).to_have_value("a green turtle")


def test_what_is_transparent_is_painted_over_from_the_start(page: Any, tmp_path: Path) -> None:
    side = load_config("emoji").tokenizer.image_size
    blue = Image.new("RGBA", (side, side), "blue")
    blue.paste((0, 0, 0, 0), (0, 0, side, side // 2))
    blue.save(tmp_path / "half.png")
    page.locator("#count").fill("1")
    page.locator("#open-file").set_input_files(tmp_path / "half.png")
    edit(page)
    draws = page.get_by_role("button", name="Draw the edit")
    expect(draws).to_be_enabled()
    page.get_by_role("button", name="Keep all").click()
    expect(draws).to_be_disabled()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    page.get_by_label("What the whole image shows afterwards").fill("a red apple")
    draws.click()
    page.locator("#gallery li").wait_for()
    drawn = Image.frombytes("RGB", (side, side), pixels(page, "#gallery img"))
    assert drawn.crop((0, side // 2, side, side)).getcolors() == [(side * side // 2, (0, 0, 255))]
    assert any(least < 250 for least, _ in drawn.crop((0, 0, side, side // 2)).getextrema())  # and not white


def test_a_contact_sheet_is_called_one(page: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(from_api(address, prompt="a red apple", seed=0))
    record = read_record(tmp_path / "one.png")
    write_sheet(tmp_path / "sheet.png", Image.new("RGB", (64, 32)), [record, replace(record, seed=1)])
    drop(page, tmp_path / "sheet.png")
    expect(page.get_by_role("alert")).to_have_text("sheet.png is a contact sheet: give one of its images.")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_file_dropped_on_the_editor_lends_its_colours_and_elsewhere_comes_to_the_front(
    page: Any, address: str, tmp_path: Path
) -> None:
    draw(page, "a green tree", seed=1)
    (tmp_path / "heart.png").write_bytes(from_api(address, prompt="a red heart", seed=0))
    page.locator("#gallery .open").first.click()
    edit(page)
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


def test_an_image_is_pasted_and_text_goes_into_the_fields(page: Any) -> None:
    image = list(png((64, 64)))
    draw(page, "a red apple")
    assert page.evaluate(PASTE, ["#prompt", image, "a cell of a table"])
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert not page.evaluate(PASTE, ["body", image, ""])
    expect(page.get_by_role("heading", name="clip.png")).to_be_visible()
    page.keyboard.press("ArrowRight")  # it is not one of the history
    expect(page.get_by_role("heading", name="clip.png")).to_be_visible()
    edit(page)
    assert not page.evaluate(PASTE, ["#canvas", image, ""])
    expect(page.get_by_role("img", name="The image whose colours are taken")).to_be_visible()
    page.keyboard.press("Escape")
    dropped = """() => {
        const data = new DataTransfer();
        data.setData("text/plain", "a cat");
        const event = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
        return document.getElementById("prompt").dispatchEvent(event);
    }"""
    assert page.evaluate(dropped)
