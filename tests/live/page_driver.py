"""Operates the page in a browser, for the tests of the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

UNSEEN = Path(__file__).resolve().parents[2] / "tools/flux_tools/demo/unseen"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
FULL = {"message": "concurrency limit exceeded (64 requests)", "type": "server_error", "param": None, "code": None}
#: Milliseconds that an image may take on a busy machine.
PATIENCE = 60_000


def run(page: Page, steps: int, count: int = 1) -> None:
    page.get_by_label("Steps").fill(str(steps))
    page.get_by_label("Images", exact=True).fill(str(count))
    page.get_by_role("button", name="Run", exact=True).click()


def add_images(page: Page, *names: str) -> None:
    page.locator("#image").set_input_files([UNSEEN / name for name in names])
    expect(page.locator(".card")).to_have_count(len(names))


def form_of(page: Page, steps: int = 4) -> bytes:
    """Runs, and returns the body of the request. It does not reach the server."""
    page.route("**/v1/jobs", lambda route: route.fulfill(status=422, json={"error": {**FULL, "param": None}}))
    with page.expect_request("**/v1/jobs") as sent:
        run(page, steps)
    page.unroute("**/v1/jobs")
    return sent.value.post_data_buffer or b""


def values_of(form: bytes, name: str) -> list[bytes]:
    return re.findall(b'name="%s"\r\n\r\n(.*?)\r\n' % name.encode(), form)


def paint(page: Page) -> None:
    """Paints a stroke across the middle of the open mask editor."""
    box = page.locator("#mask-canvas").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, middle, steps=5)
    page.mouse.up()


def mask_of(page: Page) -> Image.Image:
    """The mask on the first thumbnail."""
    data = page.locator(".thumbnail .mask").first.evaluate(
        """async image => {
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth;
            canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL().split(",")[1];
        }"""
    )
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("L")
