"""Runs and results on the page in Debian's Chromium, with the gateway and a real Triton."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from conftest import DEMO
from flux_gateway.keys import new_key
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from page_driver import DESKTOP, FULL, PATIENCE, UNSEEN, add_images, run
from raw import wait_until_healthy

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="the page needs a browser: apt-get install chromium"),
]
#: Replaces jq, which is not installed everywhere.
JQ = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"image_base64\"])'"


def test_an_image_becomes_variations(page: Page, tmp_path: Path) -> None:
    add_images(page, "doughnut.png")
    page.get_by_label("Seed", exact=True).fill("5")
    run(page, 60, 2)
    expect(page.get_by_role("progressbar")).to_have_count(2)
    expect(page.get_by_alt_text("Preview of image 1")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Done: 2")).to_be_visible(timeout=PATIENCE)
    frames = page.locator("#gallery > li")
    expect(frames).to_have_count(2)
    expect(frames.first.get_by_role("slider")).to_have_count(0)
    with page.expect_download() as download:
        frames.first.get_by_text("Download").click()
    assert download.value.suggested_filename == "flux-redux-5.png"
    assert Image.open(io.BytesIO(download.value.path().read_bytes())).size == (64, 64)
    frames.first.get_by_role("button", name="Use as input").click()
    expect(page.locator(".card .name").last).to_contain_text("flux-redux-5.png")


def test_large_view_is_operated_by_keyboard_and_compares_on_demand(page: Page) -> None:
    add_images(page, "doughnut.png")
    page.get_by_label("Seed", exact=True).fill("5")
    run(page, 4, 2)
    expect(page.locator(".open")).to_have_count(2, timeout=PATIENCE)
    page.locator(".open").first.click()
    caption = page.locator("#viewer-caption")
    expect(caption).to_have_text("1 of 2 · seed 5 · 64 × 64")
    page.keyboard.press("ArrowRight")
    expect(caption).to_have_text("2 of 2 · seed 6 · 64 × 64")
    page.keyboard.press("ArrowRight")
    expect(caption).to_contain_text("2 of 2")
    expect(page.get_by_role("button", name="Next image")).to_be_disabled()
    page.keyboard.press("ArrowLeft")
    expect(caption).to_contain_text("1 of 2")
    page.get_by_role("button", name="Compare").click()
    slider = page.locator("#viewer").get_by_role("slider")
    expect(slider).to_be_focused()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(caption).to_contain_text("1 of 2")
    cut = slider.evaluate("slider => slider.parentElement.style.getPropertyValue('--cut')")
    assert cut == "40%"
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator(".open").first).to_be_focused()


def test_all_results_are_cleared_after_a_second_click(page: Page) -> None:
    page.locator("#mode-text2img").check(force=True)
    page.get_by_label("Prompt").first.fill("red apple")
    expect(page.locator("#clear")).to_be_hidden()
    run(page, 4, 2)
    expect(page.locator(".open")).to_have_count(2, timeout=PATIENCE)
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".open")).to_have_count(2)
    page.get_by_role("button", name="Remove all 2?").click()
    expect(page.locator("#gallery > li")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_running_request_can_be_cancelled(page: Page) -> None:
    page.locator("#mode-text2img").check(force=True)
    page.get_by_label("Prompt").first.fill("red apple")
    run(page, 100, 8)
    expect(page.get_by_text(re.compile("step [1-9]")).first).to_be_visible(timeout=PATIENCE)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    expect(page.locator("#gallery > li")).to_have_count(0)
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)


def test_errors_are_shown_beside_the_field_and_repeated_beside_the_button(page: Page, tmp_path: Path) -> None:
    page.locator("#mode-text2img").check(force=True)
    page.get_by_label("Prompt").first.fill("red apple")
    page.get_by_label("Size", exact=True).select_option("custom")
    page.get_by_label("Width").fill("65")
    run(page, 4)
    expect(page.get_by_role("alert")).to_have_text("Enter a multiple of 16.")
    again = page.locator("#error-again")
    expect(again).to_have_text("Width: Enter a multiple of 16.")
    page.get_by_label("Prompt").first.focus()
    again.click()
    expect(page.get_by_label("Width")).to_be_focused()
    page.get_by_label("Width").fill("64")
    expect(again).to_be_hidden()
    page.get_by_label("Size", exact=True).select_option("own")
    page.locator("#mode-redux").check(force=True)
    run(page, 4)
    expect(page.get_by_role("alert")).to_have_text("This mode needs an image.")
    (tmp_path / "notes.png").write_text("no image")
    page.locator("#image").set_input_files(tmp_path / "notes.png")
    expect(page.get_by_role("alert")).to_contain_text("cannot read this file")
    page.locator("#mode-text2img").check(force=True)
    page.get_by_label("Prompt").first.fill("red apple")
    page.route(
        "**/v1/jobs", lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, json={"error": FULL})
    )
    run(page, 4)
    expect(page.get_by_role("alert")).to_contain_text("The server is full")
    page.unroute("**/v1/jobs")
    page.get_by_role("button", name="Try again", exact=True).click(timeout=PATIENCE)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)


def test_errors_of_the_server_are_in_the_language_of_the_page(page: Page) -> None:
    page.locator("#language").click()
    page.locator("#mode-text2img").check(force=True)
    page.locator("#prompt").fill("red apple")
    error = {**FULL, "message": "num_inference_steps: 0, expected 1..100", "param": "num_inference_steps"}
    page.route("**/v1/jobs", lambda route: route.fulfill(status=422, json={"error": error}))
    page.locator("#run").click()
    expect(page.get_by_role("alert")).to_have_text("请输入 1 到 100 之间的数值。")
    expect(page.locator("#error-again")).to_have_text("步数：请输入 1 到 100 之间的数值。")
    expect(page.locator("#error-detail")).to_be_hidden()
    unknown = {**error, "message": "a message without a translation", "param": None}
    page.route("**/v1/jobs", lambda route: route.fulfill(status=422, json={"error": unknown}))
    page.locator("#run").click()
    expect(page.get_by_role("alert")).to_have_text("服务器拒绝了该请求。")
    expect(page.locator("#error-detail")).to_have_text("a message without a translation")


def test_copied_commands_generate_the_same_image(page: Page, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    add_images(page, "doughnut.png")
    page.get_by_label("Prompt").first.fill('it\'s "red"\n@home; $HOME')
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    (tmp_path / "input.png").write_bytes((UNSEEN / "doughnut.png").read_bytes())
    with page.expect_download() as download:
        page.locator("#gallery").get_by_text("Download").click()
    expected = Image.open(download.value.path()).tobytes()
    page.locator(".open").click()
    for index, (name, command) in enumerate(
        (("curl", ["bash", "-euo", "pipefail", "-c"]), ("Python", ["python3", "-c"]))
    ):
        page.get_by_role("button", name=f"Copy as {name}").click()
        # After the buttons for comparing and for using the result.
        expect(page.locator("#viewer-actions button").nth(2 + index)).to_have_text("Copied.")
        text = page.evaluate("navigator.clipboard.readText()").replace("jq -r .image_base64", JQ)
        subprocess.run([*command, text], cwd=tmp_path, check=True, timeout=120)
        (made,) = tmp_path.glob("flux-redux-*.png")
        assert Image.open(made).tobytes() == expected
        made.unlink()


def test_page_is_available_in_chinese(page: Page) -> None:
    page.locator("#language").click()
    expect(page.locator("#run")).to_have_text("生成")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.reload()
    expect(page.locator("#run")).to_have_text("生成")


def test_page_reports_unreachable_server(page: Page) -> None:
    page.route(
        "**/health", lambda route: route.fulfill(status=503, json={"error": "the models are loading", "modes": []})
    )
    page.reload()
    expect(page.locator("#server")).to_have_text("The models are loading")
    expect(page.locator("#run")).to_be_disabled()
    page.unroute("**/health")
    expect(page.locator("#run")).to_be_enabled(timeout=PATIENCE)


@pytest.fixture
def gateway_with_keys(
    demo_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Gateway, str]]:
    """A gateway with keys, and one of its keys."""
    key, kept = new_key("ann")
    (tmp_path / "keys.json").write_text(json.dumps([kept]))
    monkeypatch.setenv("FLUX_GATEWAY_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("FLUX_LORA_PATH", str(DEMO.loras))
    (port,) = free_ports(1)
    with (tmp_path / "log").open("wb") as output, Gateway(demo_server.grpc_url, "127.0.0.1", port, output) as gateway:
        wait_until_healthy(gateway)
        yield gateway, key


def test_page_requests_and_uses_an_api_key(browser: Browser, gateway_with_keys: tuple[Gateway, str]) -> None:
    gateway, key = gateway_with_keys
    page = browser.new_page(viewport=DESKTOP, locale="en-GB")
    page.goto(gateway.url)
    expect(page.locator("#run")).to_be_enabled(timeout=PATIENCE)
    field = page.locator("#key")
    expect(field).to_be_visible()
    page.locator("#mode-text2img").check(force=True)
    page.get_by_label("Prompt").first.fill("red apple")
    run(page, 4)
    expect(page.get_by_role("alert")).to_be_visible()
    field.fill(key)
    field.blur()
    expect(page.locator("#lora option")).not_to_have_count(1)
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    page.close()


def test_the_api_docs_need_a_key_and_no_other_host(browser: Browser, gateway_with_keys: tuple[Gateway, str]) -> None:
    gateway, key = gateway_with_keys
    context = browser.new_context(http_credentials={"username": "any", "password": key})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda asked: asked.url.startswith((gateway.url, "data:")) or wrong.append(asked.url))
    page.goto(f"{gateway.url}/docs")
    expect(page.get_by_text("/v1/images/generations")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("/v1/images/generations").click()
    expect(page.get_by_role("button", name="Try it out")).to_be_visible()
    expect(page.get_by_role("button", name="Authorize")).to_be_visible()
    context.close()
    # The browser itself logs the first response, which requires a password.
    assert [words for words in wrong if "401" not in words] == []
