"""The page in Debian's Chromium, with the gateway and a real Triton."""

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
FULL = {"message": "full: 64 requests are in work", "type": "server_error", "param": None, "code": None}
#: Replaces jq, which is not installed everywhere.
JQ = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"image_base64\"])'"
#: Returns what is cut at its box, extends beyond the page, or wraps in a button or a label.
CUT = """() => {
    const found = [], width = document.documentElement.clientWidth;
    for (const element of document.querySelectorAll("body *")) {
        if (!element.offsetParent || element.closest("[hidden]")) continue;
        const box = element.getBoundingClientRect(), style = getComputedStyle(element);
        const padding = (side) => parseFloat(style[`padding${side}`]);
        if (box.right > width + 1) found.push(["beyond the page", element.outerHTML]);
        if (element.matches("button, .modes span, [role=button], .pair label, legend, summary")) {
            const lines = (box.height - padding("Top") - padding("Bottom")) / (parseFloat(style.lineHeight) || 24);
            if (lines > 1.6) found.push(["wraps", element.textContent]);
            if (element.scrollWidth > element.clientWidth + 1) found.push(["cut", element.textContent]);
        }
        const shown = element.tagName === "SELECT" ? element.selectedOptions[0].text : element.placeholder;
        if (shown) {
            const context = document.createElement("canvas").getContext("2d");
            context.font = style.font;
            const arrow = element.tagName === "SELECT" ? 20 : 0;
            const room = box.width - padding("Left") - padding("Right") - arrow;
            if (context.measureText(shown).width > room) found.push(["cut", shown]);
        }
    }
    return found;
}"""
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
    """The open page. Fails if it logged an error to the console or sent a request to another host."""
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
    # The browser itself logs rejected requests.
    assert [words for words in wrong if "Failed to load resource" not in words] == []


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
        "async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))"
    )
    return Image.open(io.BytesIO(bytes(data))).convert("L")


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


def test_each_of_several_images_has_its_own_values(page: Page) -> None:
    add_images(page, "doughnut.png", "red-apple.png", "penguin.png")
    cards = page.locator(".card")
    cards.nth(0).get_by_label("Strength").fill("1.2")
    cards.nth(1).get_by_label("Strength").fill("0.5")
    cards.nth(1).get_by_label("Detail").fill("3")
    cards.nth(2).get_by_text("Framing, start and end").click()
    cards.nth(2).get_by_label("Framing").select_option("tiles")
    cards.nth(2).get_by_label("Start").fill("0.2")
    cards.nth(2).get_by_label("End").fill("0.8")
    page.get_by_label("Prompt", exact=False).first.fill("red apple")
    page.get_by_label("Prompt balance").fill("1.4")
    form = form_of(page)
    assert form.count(b'name="input_images"') == 3
    assert values_of(form, "image_strength") == [b"1.2", b"0.5", b"1"]
    assert values_of(form, "image_detail") == [b"1", b"3", b"1"]
    assert values_of(form, "image_fit") == [b"stretch", b"stretch", b"tiles"]
    assert values_of(form, "image_start") == [b"0", b"0", b"0.2"]
    assert values_of(form, "image_end") == [b"1", b"1", b"0.8"]
    assert values_of(form, "prompt_strength") == [b"1.4"]
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    cards.nth(1).get_by_role("button", name="Remove image").click()
    expect(cards).to_have_count(2)
    page.locator("#mode-img2img").check(force=True)
    expect(cards.nth(1).get_by_text("This mode uses only the first image.")).to_be_visible()
    assert form_of(page).count(b'name="input_image"') == 1


def test_a_mask_is_drawn_edited_and_sent(page: Page) -> None:
    add_images(page, "doughnut.png", "red-apple.png")
    width, height = Image.open(UNSEEN / "doughnut.png").size
    page.get_by_role("button", name="Draw a mask").first.click()
    paint(page)
    page.locator("#mask-done").click()
    mask = mask_of(page)
    assert mask.size == (width, height)
    assert (mask.getpixel((width // 2, height // 2)), mask.getpixel((1, 1))) == (255, 0)
    page.get_by_role("button", name="Edit the mask").click()
    page.get_by_role("button", name="Invert").click()
    page.locator("#mask-done").click()
    expect(page.locator("#mask-editor")).to_be_hidden()
    mask = mask_of(page)
    assert (mask.getpixel((width // 2, height // 2)), mask.getpixel((1, 1))) == (0, 255)
    # The second image has no mask of its own, so all of it is used.
    assert form_of(page).count(b'name="image_mask"') == 2
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Edit the mask").click()
    page.keyboard.press("Control+z")
    page.get_by_label("Erase").check()
    for _ in range(30):
        page.get_by_label("Brush size").press("ArrowRight")
    paint(page)
    page.locator("#mask-done").click()
    expect(page.locator(".thumbnail .mask")).to_have_count(0)


def test_a_mask_of_any_size_is_uploaded(page: Page, tmp_path: Path) -> None:
    add_images(page, "doughnut.png")
    size = Image.open(UNSEEN / "doughnut.png").size
    mask = Image.new("L", (10, 10))
    mask.paste(255, (0, 0, 5, 10))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "notes.png").write_text("no image")
    page.get_by_role("button", name="Draw a mask").click()
    page.locator("#mask-file").set_input_files(tmp_path / "notes.png")
    expect(page.locator("#mask-error")).to_contain_text("cannot read this file")
    page.locator("#mask-file").set_input_files(tmp_path / "mask.png")
    expect(page.locator("#mask-clear")).to_be_enabled()
    page.locator("#mask-done").click()
    found = mask_of(page)
    assert found.size == size
    assert (found.getpixel((1, 1)), found.getpixel((size[0] - 2, 1))) == (255, 0)


def test_a_finger_draws_a_mask(browser: Browser, gateway: Gateway) -> None:
    context = browser.new_context(viewport=PHONE, locale="en-GB", has_touch=True)
    page = context.new_page()
    page.goto(gateway.url)
    expect(page.locator("#run")).to_be_enabled(timeout=PATIENCE)
    add_images(page, "doughnut.png")
    page.get_by_role("button", name="Draw a mask").tap()
    box = page.locator("#mask-canvas").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#mask-done").tap()
    mask = mask_of(page)
    assert mask.getpixel((mask.width // 2, mask.height // 2)) == 255
    context.close()


def test_a_run_can_be_cancelled(page: Page) -> None:
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
    page.get_by_label("Size").select_option("custom")
    page.get_by_label("Width").fill("65")
    run(page, 4)
    expect(page.get_by_role("alert")).to_have_text("Enter a multiple of 16.")
    again = page.locator("#error-again")
    expect(again).to_have_text("Width: Enter a multiple of 16.")
    page.get_by_label("Prompt").first.focus()
    again.click()
    expect(page.get_by_label("Width")).to_be_focused()
    page.get_by_label("Size").select_option("own")
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


def test_no_field_is_behind_the_run_bar(page: Page) -> None:
    add_images(page, "doughnut.png", "red-apple.png")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Mode").first.focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        hidden = page.evaluate(
            """() => {
                const element = document.activeElement, bar = document.querySelector(".runbar");
                if (!element.closest(".fields") || bar.contains(element)) return "";
                const bottom = element.getBoundingClientRect().bottom;
                return bottom > bar.getBoundingClientRect().top + 1 ? element.outerHTML : "";
            }"""
        )
        assert hidden == ""


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("width", [390, 768, 1280, 1440])
def test_nothing_is_cut_or_wraps_in_buttons(browser: Browser, gateway: Gateway, width: int, locale: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale)
    page = context.new_page()
    page.goto(gateway.url)
    expect(page.locator("#run")).to_be_enabled(timeout=PATIENCE)
    for mode in ("redux", "img2img", "text2img", "controlnet"):
        page.locator(f"#mode-{mode}").check(force=True)
        if mode == "redux":
            add_images(page, "doughnut.png", "red-apple.png")
            page.locator(".card summary").first.click()
            page.locator("#more summary").click()
        assert page.evaluate(CUT) == []
    context.close()


def test_placeholders_show_the_defaults(page: Page) -> None:
    page.locator("#mode-text2img").check(force=True)
    expect(page.locator("#size option").first).to_have_text("Default: 64x64")
    page.get_by_label("Size").select_option("custom")
    assert page.get_by_label("Width").get_attribute("placeholder") == "64"
    assert page.get_by_label("Steps").get_attribute("placeholder") == "50; distilled: 4"
    assert page.get_by_label("Guidance").get_attribute("placeholder") == "3.5"
    page.locator("#mode-redux").check(force=True)
    assert page.get_by_label("Guidance").get_attribute("placeholder") == "2.5"


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


def test_controls_of_redux_images_are_shown_where_they_have_an_effect(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    add_images(page, "doughnut.png")
    weight = page.locator(".card").get_by_label("Strength")
    expect(weight).to_be_visible()
    assert weight.get_attribute("placeholder") == "1"
    weight.fill("9")
    run(page, 4)
    expect(page.get_by_role("alert")).to_have_text("Enter a value from 0 to 4.")
    weight.fill("0.5")
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)
    page.locator(".open").click()
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert "image_strength=0.5" in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("Escape")
    page.locator("#mode-text2img").check(force=True)
    expect(weight).to_be_hidden()
    page.locator("#mode-img2img").check(force=True)
    expect(weight).to_be_visible()
    expect(page.locator("#strength")).to_have_value("0.8")


def test_a_parameter_and_a_mode_without_texts_have_controls_with_their_names(page: Page) -> None:
    contract = page_contract()
    mode = {**contract["modes"][2], "name": "redux", "genserve": "poster", "purpose": "make posters"}
    lens = {"name": "lens_kind", "type": "choice", "choices": ["wide", "long"], "default": {"poster": "wide"}}
    nothing = dict.fromkeys(("min", "max", "step", "multiple", "max_length", "value", "empty", "requires", "per_image"))
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
    expect(page.get_by_label("lens kind")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#error-again")).to_contain_text("lens kind: ")


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
    for name, command in (("curl", ["bash", "-euo", "pipefail", "-c"]), ("Python", ["python3", "-c"])):
        page.get_by_role("button", name=f"Copy as {name}").click()
        expect(page.get_by_text("Copied.")).to_be_visible()
        text = page.evaluate("navigator.clipboard.readText()").replace("jq -r .image_base64", JQ)
        subprocess.run([*command, text], cwd=tmp_path, check=True, timeout=120)
        (made,) = tmp_path.glob("flux-redux-*.png")
        assert Image.open(made).tobytes() == expected
        made.unlink()


def test_the_page_switches_to_chinese(page: Page) -> None:
    page.locator("#language").click()
    expect(page.locator("#run")).to_have_text("生成")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.reload()
    expect(page.locator("#run")).to_have_text("生成")


def test_the_page_reports_that_the_server_is_not_ready(page: Page) -> None:
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


def test_the_page_requests_a_key_if_the_server_requires_one(
    browser: Browser, gateway_with_keys: tuple[Gateway, str]
) -> None:
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
