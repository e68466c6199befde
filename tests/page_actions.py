"""What a user does on the page, and what the page shows."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


def draw(page: Any, prompt: str, count: int = 1, seed: int | None = None) -> None:
    """Draw from the keyboard alone, and wait until the images are in the history."""
    before = page.locator("#gallery li").count()
    page.locator("#count").fill(str(count))
    if seed is not None:
        page.get_by_label("Seed", exact=True).fill(str(seed))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")
    page.locator("#gallery li").nth(before + count - 1).wait_for()


def edit(page: Any) -> None:
    """Open the editor for the image that the viewer shows, and wait until it is open: it reads the image first."""
    page.get_by_role("button", name="Edit", exact=True).click()
    page.locator("#canvas").wait_for()


def drop(page: Any, file: Path) -> None:
    """Drag a file over the page and drop it."""
    script = """([name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
        return data;
    }"""
    data = page.evaluate_handle(script, [file.name, list(file.read_bytes())])
    page.locator("body").dispatch_event("dragover", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_visible()
    page.locator("body").dispatch_event("drop", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_hidden()


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


def smallest_size(address: str) -> str:
    """Of those that the model was trained at; it is drawn soonest."""
    with urllib.request.urlopen(f"{address}/v1/models") as answer:
        sizes: list[str] = json.load(answer)["data"][0]["sizes"]
    return min(sizes, key=lambda size: int(size.split("x")[0]))


def from_api(address: str, **body: Any) -> bytes:
    """An image of the size that the tests draw at."""
    data = json.dumps({"size": smallest_size(address), **body}).encode()
    request = urllib.request.Request(f"{address}/v1/images/generations", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])
