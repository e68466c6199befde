"""The history of the page: what is kept, compared, deleted and brought back."""

from __future__ import annotations

from typing import Any

from page_actions import draw, expect, pixels


def test_history_survives_a_reload_and_gives_settings_back(page: Any) -> None:
    draw(page, "a yellow star!", count=2, seed=3)
    page.reload()
    page.locator("#gallery li").nth(1).wait_for()
    page.locator("#gallery .open").first.click()
    expect(page.get_by_role("heading", name="a yellow star!")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    assert download.value.suggested_filename == "a-yellow-star-4.png"
    page.get_by_label("Coarse to fine").focus()
    finished = pixels(page, "#viewer-image")
    page.keyboard.press("Home")  # the slider's first scale
    assert pixels(page, "#viewer-image") != finished
    page.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a yellow star!")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4")


def test_what_the_form_says_survives_a_reload_and_is_another_tabs_own(page: Any, address: str) -> None:
    page.get_by_role("button", name="fluent", exact=True).click()
    page.get_by_label("Shape").select_option("16:9")
    page.get_by_text("Mix in a second prompt").click()
    page.get_by_text("More settings").click()
    chosen = {"prompt": "an owl,\n🦉", "second": "a cat", "switch": "2", "count": "2", "seed": "9223372036854775797"}
    chosen |= {"negative": "ugly", "guidance": "6.5", "top-k": "0", "top-p": "1", "greedy": "1"}
    for name, value in chosen.items():
        page.locator(f"#{name}").fill(value)
    page.locator("#reroll").uncheck()
    page.reload()
    for name, value in {**chosen, "size": "16:9"}.items():
        expect(page.locator(f"#{name}")).to_have_value(value)
    expect(page.locator("#reroll")).not_to_be_checked()
    expect(page.locator("#styles [aria-pressed=true]")).to_have_text("fluent")
    other = page.context.new_page()
    other.goto(address)
    other.get_by_text("Ready", exact=True).wait_for()
    expect(other.locator("#prompt")).to_have_value("")
    other.close()


def test_two_images_stand_side_by_side(page: Any) -> None:
    draw(page, "a red apple", count=3, seed=1)
    for place in range(3):  # the third takes the place of the first
        page.locator("#gallery .pick").nth(place).check(force=True)
    for tick, checked in zip(page.locator("#gallery .pick").all(), (False, True, True), strict=True):
        expect(tick).to_be_checked(checked=checked)
    page.get_by_role("button", name="Compare two").click()
    expect(page.locator("#comparison dd")).to_have_count(2)


def numbers(page: Any) -> list[str]:
    """Of the images of the history, newest first."""
    found: list[str] = page.locator("#gallery li").evaluate_all("all => all.map((e) => e.dataset.id)")
    return found


def test_what_is_deleted_comes_back_to_its_place(page: Any) -> None:
    draw(page, "a red apple", count=3, seed=1)
    whole, image = numbers(page), pixels(page, "#gallery li:nth-child(2) img")
    for _ in range(2):
        page.locator("#gallery .open").nth(1).click()
        page.locator("#delete").press("Enter")
        expect(page.get_by_role("button", name="Undo", exact=True)).to_be_focused()
    assert numbers(page) == whole[:1]
    expect(page.locator("#current .tile")).to_have_count(1)
    page.keyboard.press("Enter")  # the last one first
    expect(page.locator("#gallery li .open").last).to_be_focused()
    page.keyboard.press("Control+z")
    expect(page.locator("#gallery li .open").nth(1)).to_be_focused()
    assert numbers(page) == whole
    expect(page.locator("#deleted")).to_be_hidden()
    expect(page.locator("#current .tile")).to_have_count(3)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all").click()
    expect(page.get_by_role("heading", name="What shall it be?")).to_be_visible()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#gallery li")).to_have_count(3)
    page.reload()
    page.locator("#gallery li").nth(2).wait_for()
    assert numbers(page) == whole and pixels(page, "#gallery li:nth-child(2) img") == image
    page.locator("#gallery .open").nth(1).click()
    page.locator("#delete").press("Enter")
    expect(page.locator("#gallery li")).to_have_count(2)
    draw(page, "a red apple", seed=9)
    expect(page.locator("#deleted")).to_be_hidden()  # for good
    page.reload()
    page.locator("#gallery li").nth(2).wait_for()
    assert numbers(page)[1:] == [whole[0], whole[2]]


def test_tabs_show_what_the_others_draw_delete_and_bring_back(page: Any) -> None:
    draw(page, "a red apple", seed=1)
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#gallery li").wait_for()
    draw(page, "a yellow star", seed=2)
    expect(other.locator("#gallery li")).to_have_count(2)
    both = numbers(page)
    assert numbers(other) == both and pixels(other, "#gallery img") == pixels(page, "#gallery img")
    page.locator("#gallery .pick").last.check(force=True)
    other.locator("#gallery .open").last.click()
    other.locator("#delete").press("Enter")
    expect(page.locator("#gallery li")).to_have_count(1)
    page.locator("#gallery .pick").first.check(force=True)
    expect(page.get_by_role("button", name="Compare two")).to_be_disabled()  # the other one is gone
    other.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#gallery li")).to_have_count(2)
    assert numbers(page) == both
    other.once("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Delete all").click()
    expect(other.locator("#deleted-text")).to_have_text("2 images are deleted.")
    expect(page.get_by_role("heading", name="What shall it be?")).to_be_visible()
    other.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#gallery li")).to_have_count(2)
    page.reload()
    expect(page.locator("#gallery li")).to_have_count(2)
    assert numbers(page) == both
    other.close()


def test_the_viewer_steps_to_what_has_come_meanwhile(page: Any) -> None:
    draw(page, "a red apple", seed=1)
    page.locator("#gallery .open").click()
    title, other = page.locator("#viewer-title"), page.context.new_page()
    other.goto(page.url)
    other.locator("#gallery li").wait_for()
    draw(other, "a yellow star", seed=2)
    other.close()
    expect(page.locator("#gallery li")).to_have_count(2)
    for key, shown in (("ArrowLeft", "a yellow star"), ("ArrowLeft", "a yellow star"), ("ArrowRight", "a red apple")):
        page.keyboard.press(key)
        expect(title).to_have_text(shown)
    page.locator("#older").press("Enter")  # there is none, and the keyboard stays where it is
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text("a yellow star")
