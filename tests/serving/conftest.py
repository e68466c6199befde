"""A running server with the shipped model, and a real browser before it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from processes import started

CHROMIUM = os.environ.get("HART_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WAIT = 120_000
"""Milliseconds, for machines that are busy."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started("serve", "--port", 0) as server:
        yield server.said[0].readline().strip()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: set HART_CHROMIUM or install one")
    sync_api.expect.set_options(timeout=WAIT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Any]:
    """One page for all tests, without animations, of which the browser would draw every frame."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(WAIT)
    yield page
    context.close()


@pytest.fixture
def page(window: Any, address: str) -> Iterator[Any]:
    """The page of a newcomer when the model is ready. Its scripts may make no error and breach no security policy."""
    from page_actions import smallest_size  # which needs the browser's library

    problems: list[str] = []
    listeners = {
        "pageerror": lambda error: problems.append(str(error)),
        "console": lambda message: problems.append(message.text) if "Refused" in message.text else None,
    }
    for event, listener in listeners.items():
        window.on(event, listener)
    window.goto(address)
    window.get_by_text("Ready", exact=True).wait_for()
    window.locator("#size").select_option(smallest_size(address))
    yield window
    window.goto(f"{address}/icon.svg")  # closes the browser's store, and has one of the tab
    window.evaluate("sessionStorage.clear()")
    session = window.context.new_cdp_session(window)
    session.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
    session.detach()
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    assert problems == []
