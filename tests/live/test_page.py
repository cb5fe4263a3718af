"""The page in Debian's Chromium, in front of the real Triton."""

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
from playwright.sync_api import Browser, Page, expect, sync_playwright

from conftest import DEMO
from flux_gateway.keys import new_key
from flux_gateway.page.contract import page_contract
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from raw import wait_until_healthy

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(CHROMIUM is None, reason="the page needs a browser: apt-get install chromium"),
]
UNSEEN = Path(__file__).resolve().parents[2] / "tools/flux_tools/demo/unseen"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
FULL = {"message": "concurrency limit exceeded (64 requests)", "type": "server_error", "param": None, "code": None}
#: jq is not everywhere.
JQ = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"image_base64\"])'"
#: Milliseconds that an image may take on a busy machine.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(browser: Browser, gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Yields the open page. Afterwards checks that it logged no errors and contacted no other host."""
    context = browser.new_context(viewport=request.param, locale="en-GB", permissions=["clipboard-read"])
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((gateway.url, "blob:", "data:")) or wrong.append(asked.url))
    page.goto(gateway.url)
    expect(page.locator("#run")).to_be_enabled(timeout=PATIENCE)
    yield page
    context.close()
    # The browser itself logs responses with error statuses.
    assert [words for words in wrong if "Failed to load resource" not in words] == []


def run(page: Page, steps: int, count: int = 1) -> None:
    page.get_by_label("Steps").fill(str(steps))
    page.get_by_label("Images", exact=True).fill(str(count))
    page.get_by_role("button", name="Run", exact=True).click()


def test_an_image_becomes_variations(page: Page, tmp_path: Path) -> None:
    page.locator("#image").set_input_files(UNSEEN / "doughnut.png")
    expect(page.locator("#image-shown")).to_be_visible()
    page.get_by_label("Seed", exact=True).fill("5")
    run(page, 60, 2)
    expect(page.get_by_role("progressbar")).to_have_count(2)
    expect(page.get_by_alt_text("Preview of image 1")).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=tmp_path / "running.png")
    expect(page.get_by_text("Done: 2")).to_be_visible(timeout=PATIENCE)
    frames = page.locator("#gallery > li")
    expect(frames).to_have_count(2)
    slider = frames.first.get_by_role("slider")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    cut = slider.evaluate("slider => slider.parentElement.style.getPropertyValue('--cut')")
    assert cut == "40%"
    with page.expect_download() as download:
        frames.first.get_by_text("Download").click()
    assert download.value.suggested_filename == "flux-redux-5.png"
    assert Image.open(io.BytesIO(download.value.path().read_bytes())).size == (64, 64)
    frames.first.get_by_role("button", name="Use as input").click()
    expect(page.locator("#image-name")).to_contain_text("flux-redux-5.png")
    page.screenshot(path=tmp_path / "done.png", full_page=True)
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, "it can be scrolled sideways"


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


def test_error_is_shown_beside_its_field(page: Page, tmp_path: Path) -> None:
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


def test_controls_of_redux_images_are_shown_where_they_have_an_effect(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#image").set_input_files(UNSEEN / "doughnut.png")
    page.get_by_text("More", exact=True).click()
    weight = page.get_by_label("Image weight")
    expect(weight).to_be_visible()
    assert weight.get_attribute("placeholder") == "1"
    weight.fill("9")
    run(page, 4)
    expect(page.get_by_role("alert")).to_have_text("Enter a value from 0 to 4.")
    weight.fill("0.5")
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    page.locator("#gallery").get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert "image_strength=0.5" in page.evaluate("navigator.clipboard.readText()")
    page.locator("#mode-text2img").check(force=True)
    expect(weight).to_be_hidden()
    page.locator("#mode-img2img").check(force=True)
    expect(weight).to_be_visible()
    expect(page.locator("#strength")).to_have_value("0.8")


def test_a_parameter_and_a_mode_without_texts_have_controls_with_their_names(page: Page) -> None:
    contract = page_contract()
    mode = {**contract["modes"][2], "name": "redux", "genserve": "poster", "purpose": "make posters"}
    lens = {"name": "lens_kind", "type": "choice", "choices": ["wide", "long"], "default": {"poster": "wide"}}
    nothing = dict.fromkeys(("min", "max", "step", "multiple", "max_length", "value", "empty", "requires"))
    mode["parameters"] = [*mode["parameters"], "lens_kind"]
    changed = {
        **contract,
        "modes": [*contract["modes"], mode],
        "parameters": [*contract["parameters"], {**nothing, **lens}],
    }
    page.route("**/page/contract.json", lambda route: route.fulfill(json=changed))
    page.reload()
    page.get_by_text("More", exact=True).click()
    expect(page.get_by_label("lens kind")).to_be_hidden()
    page.locator("#mode-poster").check(force=True)
    expect(page.locator("#mode-about")).to_have_text("make posters")
    page.get_by_label("lens kind").select_option("long")
    page.get_by_label("Prompt").first.fill("red apple")
    page.route("**/v1/jobs", lambda route: route.fulfill(status=422, json={"error": {**FULL, "param": "lens_kind"}}))
    with page.expect_request("**/v1/jobs") as sent:
        run(page, 4)
    assert b'name="lens_kind"\r\n\r\nlong\r\n' in (sent.value.post_data_buffer or b"")
    expect(page.locator("[data-param=lens_kind]").get_by_role("alert")).to_be_visible()


def test_copied_commands_generate_the_same_image(page: Page, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#image").set_input_files(UNSEEN / "doughnut.png")
    page.get_by_label("Prompt").first.fill('it\'s "red"\n@home; $HOME')
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    (tmp_path / "input.png").write_bytes((UNSEEN / "doughnut.png").read_bytes())
    with page.expect_download() as download:
        page.locator("#gallery").get_by_text("Download").click()
    expected = Image.open(download.value.path()).tobytes()
    for name, command in (("curl", ["bash", "-euo", "pipefail", "-c"]), ("Python", ["python3", "-c"])):
        page.locator("#gallery").get_by_role("button", name=f"Copy as {name}").click()
        expect(page.get_by_text("Copied.")).to_be_visible()
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
    """And a key of it."""
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


def test_the_documentation_is_shown_with_a_key_and_asks_no_other_host(
    browser: Browser, gateway_with_keys: tuple[Gateway, str]
) -> None:
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
    # The browser tells by itself that it was first asked for a password.
    assert [words for words in wrong if "401" not in words] == []
