"""Controls of the page in Debian's Chromium, with the gateway and a real Triton."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from flux_gateway.page.contract import page_contract
from flux_serving.launch.gateway import Gateway
from page_driver import FULL, PATIENCE, PHONE, UNSEEN, add_images, form_of, mask_of, paint, run, values_of

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="the page needs a browser: apt-get install chromium"),
]
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
    with Image.open(UNSEEN / "doughnut.png") as image:
        width, height = image.size
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


def test_inpainting_requires_a_mask_and_changes_only_its_part(page: Page) -> None:
    page.locator("#mode-fill").check(force=True)
    add_images(page, "doughnut.png")
    page.get_by_label("Prompt").first.fill("blue heart")
    page.locator("#run").click()
    expect(page.get_by_text("Draw a mask over the part to change.").first).to_be_visible()
    page.get_by_role("button", name="Draw a mask", exact=True).click()
    expect(page.locator("#mask-about")).to_have_text("Paint the part of the image to change.")
    paint(page)
    page.locator("#mask-done").click()
    form = form_of(page)
    assert form.count(b'name="mask_image"') == form.count(b'name="input_image"') == 1
    run(page, 4)
    expect(page.get_by_text("Done: 1")).to_be_visible(timeout=PATIENCE)


def test_a_mask_of_any_size_is_uploaded(page: Page, tmp_path: Path) -> None:
    add_images(page, "doughnut.png")
    with Image.open(UNSEEN / "doughnut.png") as image:
        size = image.size
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


def test_no_field_is_behind_the_run_bar(page: Page) -> None:
    add_images(page, "doughnut.png", "red-apple.png")
    page.get_by_text("More", exact=True).click()
    page.locator("#mode-redux").focus()
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
    page.get_by_label("Size", exact=True).select_option("custom")
    assert page.get_by_label("Width").get_attribute("placeholder") == "64"
    assert page.get_by_label("Steps").get_attribute("placeholder") == "50; distilled: 4"
    assert page.get_by_label("Guidance").get_attribute("placeholder") == "3.5"
    page.locator("#mode-redux").check(force=True)
    assert page.get_by_label("Guidance").get_attribute("placeholder") == "2.5"


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
    (text,) = (mode for mode in contract["modes"] if mode["genserve"] == "text2img")
    mode = {**text, "name": "redux", "genserve": "poster", "purpose": "make posters"}
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
