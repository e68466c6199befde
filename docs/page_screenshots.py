"""Draws docs/figures/page.jpg and page-phone.jpg: the page of `hart serve` in Chromium, with images as first drawn.

python docs/page_screenshots.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FIGURES = Path(__file__).with_name("figures")
PROMPTS = ("a red apple", "a smiling face", "a blue fish", "a yellow star")


def opened(page: Page, address: str) -> Page:
    page.set_default_timeout(120_000)
    page.goto(address)
    page.get_by_text("Ready", exact=True).wait_for()
    page.locator("#reroll").uncheck()
    return page


def draw(page: Page, prompt: str, before: int) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Seed", exact=True).fill("0")
    page.locator("#draw").click()
    page.locator("#gallery li").nth(before + 3).wait_for()


def main() -> None:
    server = subprocess.Popen([sys.executable, "-m", "hart", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = opened(browser.new_page(viewport={"width": 1120, "height": 760}), address)
        for place, prompt in enumerate(PROMPTS):
            draw(page, prompt, 4 * place)
        page.screenshot(path=FIGURES / "page.jpg", quality=68)
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        draw(opened(phone, address), PROMPTS[0], 0)
        phone.screenshot(path=FIGURES / "page-phone.jpg", quality=68, full_page=True)
        browser.close()
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
